"""What ``amaru psi feed`` sends: a gateway's own figures as the signals of a field.

Two signals per provider, out of ``GET /providers``: the mean time of its whole answers of late, in milliseconds, and
the share of its attempts of late that failed. A provider that was not asked lately has a latency that is missing.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from amaru.stability.client import Call, FieldError, PsiClient

Json = dict[str, Any]  # Any: a JSON document
LATENCY, ERRORS = "latency_ms", "error_share"


class _Now(msgspec.Struct):
    success: float
    answer_ms: float | None = None


class _Offer(msgspec.Struct):
    now: _Now


class _Provider(msgspec.Struct):
    id: str
    offers: list[_Offer]


class _Providers(msgspec.Struct):
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

    def once(self, now: float) -> Fed:
        """Read the gateway, and have the field take a step at ``now`` (Unix seconds).

        Raises
        ------
        FieldError
            Either of them did not answer as it should; the message says which.
        """
        try:
            signals = signals_of(self._call(f"{self._gateway}/providers", None))
        except FieldError as error:
            raise FieldError(f"the gateway at {self._gateway}: {error}", error.status) from None
        if not signals:
            raise FieldError(f"the gateway at {self._gateway}: it has no provider with offers")
        try:
            if self._names != list(signals):
                self._prepare(list(signals))
            answer = self._service.step(list(signals.values()), at=now)
            self._tell(answer)
        except FieldError as error:
            self._names = None  # it may have been restarted with another field
            raise FieldError(f"the psi-field at {self._service.url}: {error}", error.status) from None
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


def signals_of(body: bytes) -> dict[str, float | None]:
    """The signals in what ``GET /providers`` answers, by name and in the order of names. Raises ``FieldError``."""
    try:
        providers = msgspec.json.decode(body, type=_Providers).providers
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FieldError(f"GET /providers answers with something else than amaru's: {error}") from None
    signals: dict[str, float | None] = {}
    for provider in sorted(providers, key=lambda one: one.id):
        offers = [offer.now for offer in provider.offers]
        if not offers:
            continue
        seen = [offer.answer_ms for offer in offers if offer.answer_ms is not None]
        signals[f"{provider.id}.{LATENCY}"] = math.fsum(seen) / len(seen) if seen else None
        signals[f"{provider.id}.{ERRORS}"] = 1.0 - math.fsum(offer.success for offer in offers) / len(offers)
    return signals
