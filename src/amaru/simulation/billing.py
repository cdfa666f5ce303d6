"""The provider's own bill: what it charges, to the last fraction of a cent, apart from what anybody else counts."""

from __future__ import annotations

import hashlib

import msgspec

from amaru.domain import Price

_PICO_USD = 1_000_000
"""USD per million tokens, times this, is pico-USD (1e-12) per token: whole numbers add up exactly."""


class Account(msgspec.Struct):
    """What one key used. ``input_tokens`` include the cached ones."""

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    pico_usd: int = 0

    @property
    def usd(self) -> float:
        """The amount in US dollars."""
        return self.pico_usd / 1e12

    def charge(self, price: Price, input_tokens: int, cached_tokens: int, output_tokens: int) -> None:
        """Add one request at ``price``."""
        cached_price = price.cached_input_usd_per_mtok
        if cached_price is None:
            cached_price = price.input_usd_per_mtok
        self.requests += 1
        self.input_tokens += input_tokens
        self.cached_input_tokens += cached_tokens
        self.output_tokens += output_tokens
        self.pico_usd += (input_tokens - cached_tokens) * round(price.input_usd_per_mtok * _PICO_USD)
        self.pico_usd += cached_tokens * round(cached_price * _PICO_USD)
        self.pico_usd += output_tokens * round(price.output_usd_per_mtok * _PICO_USD)

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "cached_input_tokens": self.cached_input_tokens,
            "output_tokens": self.output_tokens,
            "usd": self.usd,
        }


class Bill:
    """The whole bill, and each key's part of it.

    A request is billed when its first token is made: its prompt, and the output up to where the answer ended or was
    cut, whoever cut it. Refused and failed requests that made no token cost nothing, an error object in a 200 neither.
    """

    def __init__(self) -> None:
        self.total = Account()
        self.by_key: dict[str, Account] = {}

    def charge(self, key: str, price: Price, input_tokens: int, cached_tokens: int, output_tokens: int) -> None:
        """Bill one request to ``key`` (a label, never the key itself: see ``key_label``)."""
        account = self.by_key.get(key)
        if account is None:
            account = self.by_key[key] = Account()
        for part in (self.total, account):
            part.charge(price, input_tokens, cached_tokens, output_tokens)

    def as_dict(self) -> dict[str, object]:
        """For ``GET /sim/bill``."""
        return {
            "total": self.total.as_dict(),
            "by_key": {key: account.as_dict() for key, account in sorted(self.by_key.items())},
        }


def key_label(key: str) -> str:
    """What the bill calls a key: the first eight hex digits of its SHA-256; ``none`` for a request without one."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:8] if key else "none"
