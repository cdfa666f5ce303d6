"""The provider's own bill: what it charges, to the last fraction of a cent, apart from what anybody else counts."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import deque
from decimal import Decimal

import msgspec

from amaru.accounts.money import usd_text
from amaru.domain import Price, Usage, UsageDetails

_PICO_USD = 1_000_000
"""USD per million tokens, times this, is pico-USD (1e-12) per token: whole numbers add up exactly."""
MAX_REQUESTS = 100_000
"""The last ones are told one by one."""
_CHARGED_AS = {
    "cached_input": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "audio_input": "input",
    "image_input": "input",
    "reasoning": "output",
    "audio_output": "output",
    "image_output": "output",
}
"""What a kind of token costs that has no price of its own."""


class Line(msgspec.Struct):
    """One kind of token on a bill. The lines of a bill do not overlap."""

    tokens: int = 0
    pico_usd: int = 0


class Account(msgspec.Struct):
    """What one key used. ``input_tokens`` include the cached ones, and ``output_tokens`` the reasoning."""

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    lines: dict[str, Line] = {}
    """By kind of token; those that were used."""

    @property
    def pico_usd(self) -> int:
        """The amount."""
        return sum(line.pico_usd for line in self.lines.values())

    @property
    def usd(self) -> float:
        """The amount in US dollars."""
        return self.pico_usd / 1e12

    def charge(self, price: Price, usage: Usage) -> int:
        """Add one request at ``price``; what it costs, in pico-USD."""
        self.requests += 1
        self.input_tokens += usage.input_tokens
        self.cached_input_tokens += usage.cached_input_tokens
        self.output_tokens += usage.output_tokens
        holds = _that_holds(price, usage)
        cost = 0
        for kind, tokens in _by_kind(usage).items():
            if tokens:
                line = self.lines.setdefault(kind, Line())
                line.tokens += tokens
                line.pico_usd += tokens * _pico_usd_per_token(holds, kind)
                cost += tokens * _pico_usd_per_token(holds, kind)
        return cost

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "cached_input_tokens": self.cached_input_tokens,
            "output_tokens": self.output_tokens,
            "usd": self.usd,
            "lines": {
                kind: {"tokens": line.tokens, "usd": line.pico_usd / 1e12} for kind, line in sorted(self.lines.items())
            },
        }


def _by_kind(usage: Usage) -> dict[str, int]:
    """Each token under the finest kind that it is of."""
    details = usage.details or UsageDetails()
    finer = {
        "cached_input": usage.cached_input_tokens,
        "cache_write": details.cache_write_tokens - details.cache_write_1h_tokens,
        "cache_write_1h": details.cache_write_1h_tokens,
        "audio_input": details.audio_input_tokens,
        "image_input": details.image_input_tokens,
    }
    spoken = {
        "reasoning": details.reasoning_tokens,
        "audio_output": details.audio_output_tokens,
        "image_output": details.image_output_tokens,
    }
    plain = {
        "input": usage.input_tokens - sum(finer.values()),
        "output": usage.output_tokens - sum(spoken.values()),
    }
    return plain | finer | spoken


def _that_holds(price: Price, usage: Usage) -> Price:
    """The price of the whole request: its service tier's, then that of the longest prompt, else the usual one."""
    served = usage.details.service_tier if usage.details is not None else None
    fitting = [
        tier
        for tier in price.tiers
        if tier.service_tier in (None, served) and tier.above_input_tokens < usage.input_tokens
    ]
    if not fitting:
        return price
    return max(fitting, key=lambda tier: (tier.service_tier is not None, tier.above_input_tokens)).price


def _pico_usd_per_token(price: Price, kind: str) -> int:
    usd = getattr(price, f"{kind}_usd_per_mtok")
    return _pico_usd_per_token(price, _CHARGED_AS[kind]) if usd is None else round(Decimal(str(usd)) * _PICO_USD)


class Bill:
    """The whole bill, and each key's part of it.

    A request is billed when its first token is made: its prompt, and the output up to where the answer ended or was
    cut, whoever cut it. Refused and failed requests that made no token cost nothing, an error object in a 200 neither.
    """

    def __init__(self) -> None:
        self.total = Account()
        self.by_key: dict[str, Account] = {}
        self._requests: deque[tuple[str, float, str, int, int, int, int]] = deque(maxlen=MAX_REQUESTS)

    def charge(self, key: str, price: Price, usage: Usage, *, id: str = "", model: str = "", at: float = 0.0) -> None:
        """Bill one request to ``key`` (a label, never the key itself: see ``key_label``).

        ``id`` is the answer's, ``at`` its end in Unix seconds.
        """
        self.by_key.setdefault(key, Account()).charge(price, usage)
        cost = self.total.charge(price, usage)
        self._requests.append((id, at, model, usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, cost))

    def as_csv(self) -> str:
        """For ``GET /sim/usage``: a line for each request, as ``amaru spend reconcile`` reads them."""
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(("id", "at", "model", "input_tokens", "cached_input_tokens", "output_tokens", "cost_usd"))
        table.writerows((*request[:-1], usd_text(request[-1])) for request in self._requests)
        return text.getvalue()

    def as_dict(self) -> dict[str, object]:
        """For ``GET /sim/bill``."""
        return {
            "total": self.total.as_dict(),
            "by_key": {key: account.as_dict() for key, account in sorted(self.by_key.items())},
        }


def key_label(key: str) -> str:
    """What the bill calls a key: the first eight hex digits of its SHA-256; ``none`` for a request without one."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:8] if key else "none"
