"""What ``amaru psi feed`` sends: a gateway's own figures as the signals of a field.

Three signals per provider, out of ``GET /health/providers``, of its attempts of late: the median time of an answer, in
milliseconds, the share that failed, and the utility, what an attempt there is worth (``utility_of``). Those of a
provider of which nothing was heard since the step before are missing: that is no news of it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from amaru.stability.client import Call, FieldError, PsiClient
from amaru.stability.utility import utility_of

Json = dict[str, Any]  # Any: a JSON document
SIGNALS = ("latency_ms", "error_rate", "utility")


class _Signature(msgspec.Struct):
    error_rate: float
    coherence: float
    latency_p50_ms: float | None = None
    last_seen_at: float | None = None


class _Provider(msgspec.Struct):
    provider: str
    signature: _Signature


class _Report(msgspec.Struct):
    at: float
    providers: list[_Provider]


class Fed(msgspec.Struct, frozen=True, kw_only=True):
    """One step."""

    signals: dict[str, float | None]
    """By name; ``None``: missing."""
    answer: Json
    """The service's, as it came."""


class Feed:
    """From one gateway to one service.

    Parameters
    ----------
    gateway
        Its base, such as ``http://127.0.0.1:8080``.
    call
        How it is called, with an operator's key.
    every_s
        Between two steps, as far as known; a field that is made here takes it for its own.
    """

    def __init__(self, gateway: str, service: PsiClient, call: Call, *, every_s: float | None = None) -> None:
        self._gateway = gateway
        self._service = service
        self._call = call
        self._every_s = every_s
        self._names: list[str] | None = None
        self._heard_until = 0.0
        """When the gateway was read last, by its own clock."""

    def once(self, now: float) -> Fed:
        """Read the gateway, and have the field take a step at ``now`` (Unix seconds).

        Raises
        ------
        FieldError
            Either of them did not answer as it should; the message says which.
        """
        try:
            report = _report(self._call(f"{self._gateway}/health/providers", None))
        except FieldError as error:
            hint = "" if error.status else "; is `amaru serve` running there?"
            raise FieldError(f"the gateway at {self._gateway}: {error}{hint}", error.status) from None
        signals = _signals(report, self._heard_until)
        if not signals:
            raise FieldError(f"the gateway at {self._gateway}: it has no provider")
        try:
            if self._names != list(signals):
                self._prepare(list(signals))
            answer = self._service.step(list(signals.values()), at=now)
            self._tell(answer)
        except FieldError as error:
            self._names = None  # it may have been restarted with another field
            hint = "" if error.status else "; start one with `amaru psi serve`"
            raise FieldError(f"the psi-field at {self._service.url}: {error}{hint}", error.status) from None
        self._heard_until = report.at
        return Fed(signals=signals, answer=answer)

    def _prepare(self, names: list[str]) -> None:
        """A field of these signals; one that has them already is gone on with, whatever else it was made with."""
        there = self._service.get("params")
        field = there.get("field")
        if there.get("names") != names or not isinstance(field, dict) or field.get("kind") != "latencies":
            step = {} if self._every_s is None else {"step_s": self._every_s}
            self._service.init(len(names), kind="latencies", names=names, **step)
        self._names = names

    def _tell(self, answer: Json) -> None:
        word = answer.get("_guardian")
        if isinstance(word, dict) and isinstance(word.get("id"), str):
            self._service.applied(word["id"], {"amaru psi feed": "told; it changes nothing itself"})


def _report(body: bytes) -> _Report:
    """What ``GET /health/providers`` answers. Raises ``FieldError``."""
    try:
        return msgspec.json.decode(body, type=_Report)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FieldError(f"GET /health/providers answers with something else than amaru's: {error}") from None


def _signals(report: _Report, heard_until: float) -> dict[str, float | None]:
    """The signals by name, in the order of names."""
    signals: dict[str, float | None] = {}
    for one in sorted(report.providers, key=lambda one: one.provider):
        seen = one.signature
        latency_ms = error_rate = utility = None
        if seen.last_seen_at is not None and seen.last_seen_at > heard_until:
            latency_ms, error_rate = seen.latency_p50_ms, seen.error_rate
            utility = utility_of(1.0 - error_rate, seen.coherence, (latency_ms or 0.0) / 1e3)
        signals |= {
            f"{one.provider}.{name}": value
            for name, value in zip(SIGNALS, (latency_ms, error_rate, utility), strict=True)
        }
    return signals
