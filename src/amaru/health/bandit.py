"""Which healing helps against which pattern: Thompson sampling over healings, learned from their effects.

Each arm is a kind of healing, for one pattern (kind and cause) at one provider. Its effect, -1 to 1, is taken as
normal with the known standard deviation ``SPREAD``; so its mean has a normal posterior, and the arm with the highest
draw is taken (Thompson, 1933; Agrawal and Goyal, *Further optimal regret bounds for Thompson sampling*, 2013).

What is known of one provider is little, so an arm's prior is what is known of that healing over all providers, counted
as ``TRANSFER`` effects, and that one's prior is a table of sensible defaults. Both forget: what was learned fades by
``KEPT`` with each further effect of the same pattern and provider.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection

import msgspec

from amaru.health.healing import HealingKind

SPREAD = 0.25
"""Standard deviation of one effect."""
DEFAULT_TRIES = 6.0
"""Effects that a default counts as."""
TRANSFER = 6.0
"""Effects of one provider that what is known of all counts as."""
KEPT = 0.98
SUGGESTED = 0.08
"""Added to the default of a healing that the pattern itself suggests."""
CONTROL = 0.08
"""Share of the choices in which nothing is done, whatever is believed, where that may be: without them nobody would
know what a healing adds to what comes about by itself."""
MOST_KEYS = 2_000
"""Patterns and providers that are known; of more, those that were met longest ago are forgotten."""

_K = HealingKind
DEFAULTS: dict[tuple[str, str], dict[HealingKind, float]] = {
    ("degradation", "latency"): {
        _K.WEIGHT: 0.38, _K.DRAIN: 0.24, _K.TIMEOUTS: 0.10, _K.CONCURRENCY: 0.12, _K.ALTERNATE: 0.10,
        _K.OTHER_MODEL: 0.05, _K.RETRY: 0.05, _K.NON_STREAM: -0.10,
    },
    ("degradation", "errors"): {
        _K.WEIGHT: 0.34, _K.DRAIN: 0.38, _K.RETRY: 0.12, _K.ALTERNATE: 0.12, _K.CONCURRENCY: 0.06,
        _K.OTHER_MODEL: 0.05, _K.NON_STREAM: 0.02, _K.TIMEOUTS: 0.0,
    },
    ("degradation", "coherence"): {
        _K.DRAIN: 0.38, _K.WEIGHT: 0.32, _K.OTHER_MODEL: 0.12, _K.ALTERNATE: 0.10, _K.ADAPT: 0.10,
        _K.NON_STREAM: 0.08, _K.RETRY: 0.0, _K.CONCURRENCY: -0.05, _K.TIMEOUTS: -0.05,
    },
    ("degradation", "throttles"): {
        _K.CONCURRENCY: 0.32, _K.WEIGHT: 0.20, _K.ALTERNATE: 0.10, _K.RETRY: 0.05, _K.OTHER_MODEL: 0.05,
        _K.DRAIN: 0.05, _K.TIMEOUTS: -0.05, _K.NON_STREAM: -0.05,
    },
    ("api_change", "shape"): {
        _K.ADAPT: 0.50, _K.ALTERNATE: 0.25, _K.DRAIN: 0.22, _K.WEIGHT: 0.15, _K.NON_STREAM: 0.12, _K.OTHER_MODEL: 0.08,
        _K.RETRY: 0.05, _K.CONCURRENCY: -0.10, _K.TIMEOUTS: -0.10,
    },
    ("api_change", "status"): {
        _K.ALTERNATE: 0.28, _K.DRAIN: 0.28, _K.WEIGHT: 0.20, _K.ADAPT: 0.10, _K.RETRY: 0.10, _K.OTHER_MODEL: 0.08,
        _K.NON_STREAM: 0.05, _K.CONCURRENCY: -0.10, _K.TIMEOUTS: -0.10,
    },
    ("resonance", "model"): {
        _K.OTHER_MODEL: 0.35, _K.WEIGHT: 0.15, _K.DRAIN: 0.15, _K.RETRY: 0.05, _K.TIMEOUTS: 0.05, _K.CONCURRENCY: 0.05,
        _K.ALTERNATE: 0.0, _K.NON_STREAM: 0.0,
    },
    ("resonance", ""): {
        _K.WEIGHT: 0.36, _K.DRAIN: 0.30, _K.RETRY: 0.10, _K.ALTERNATE: 0.10, _K.TIMEOUTS: 0.05, _K.CONCURRENCY: 0.05,
        _K.OTHER_MODEL: 0.05, _K.NON_STREAM: 0.0,
    },
}  # fmt: skip
"""(kind of pattern, family of its cause) → effect to expect of each healing. Nothing brings 0, by definition."""
_ELSE = DEFAULTS["degradation", "errors"]


def family(cause: str) -> str:
    """The part of a cause that providers share: ``status:529`` and ``status:500`` are both ``status``."""
    return cause.partition(":")[0]


def default_of(pattern: str, cause: str, kind: HealingKind) -> float:
    """The effect to expect of a healing that nothing is known of."""
    if kind is HealingKind.NOTHING:
        return 0.0
    own = DEFAULTS.get((pattern, family(cause)))
    return (own or DEFAULTS.get((pattern, ""), _ELSE)).get(kind, -0.1)


class Arm(msgspec.Struct):
    """Effects of one healing: their count and sum, faded."""

    tries: float = 0.0
    total: float = 0.0


class Bandit:
    """Chooses healings, and learns from their effects."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._arms: dict[str, dict[str, Arm]] = {}
        """By ``pattern|family|provider`` and, of all providers, ``pattern|family|``; then by healing. Newest last."""

    def choose(
        self,
        pattern: str,
        cause: str,
        provider: str,
        allowed: Collection[HealingKind],
        suggested: str | None = None,
        *,
        control: bool = False,
    ) -> HealingKind:
        """One of ``allowed``, drawn by its promise; ``NOTHING`` where none is.

        ``control``: so little is at stake that nothing may be done in ``CONTROL`` of the choices, to learn from.
        """
        if control and HealingKind.NOTHING in allowed and self._rng.random() < CONTROL:
            return HealingKind.NOTHING
        best, most = HealingKind.NOTHING, -math.inf
        for kind in allowed:
            mean, sd = self.belief(pattern, cause, provider, kind, suggested)
            draw = self._rng.gauss(mean, sd)
            if draw > most:
                best, most = kind, draw
        return best

    def belief(
        self, pattern: str, cause: str, provider: str, kind: HealingKind, suggested: str | None = None
    ) -> tuple[float, float]:
        """Mean and standard deviation of what is believed of a healing's mean effect."""
        default = default_of(pattern, cause, kind) + (SUGGESTED if suggested == kind.value else 0.0)
        of_all = self._arm(_key(pattern, cause, ""), kind)
        mean = (default * DEFAULT_TRIES + of_all.total) / (DEFAULT_TRIES + of_all.tries)
        own = self._arm(_key(pattern, cause, provider), kind)
        tries = TRANSFER + own.tries
        return (mean * TRANSFER + own.total) / tries, SPREAD / math.sqrt(tries)

    def learn(self, pattern: str, cause: str, provider: str, kind: HealingKind, effect: float) -> None:
        """A healing had this effect, as change from before to after; clipped to [-1, 1]."""
        if not math.isfinite(effect):
            return
        for key in (_key(pattern, cause, provider), _key(pattern, cause, "")):
            arms = self._arms.pop(key, {})  # newest last
            self._arms[key] = arms
            for arm in arms.values():
                arm.tries *= KEPT
                arm.total *= KEPT
            arm = arms.setdefault(kind.value, Arm())
            arm.tries += 1.0
            arm.total += min(max(effect, -1.0), 1.0)
        while len(self._arms) > MOST_KEYS:
            del self._arms[next(iter(self._arms))]

    def known(self) -> dict[str, dict[str, tuple[float, float]]]:
        """What was learned: ``pattern|family|provider`` → healing → (effects, faded; their mean)."""
        return {
            key: {kind: (arm.tries, arm.total / arm.tries) for kind, arm in arms.items() if arm.tries > 0.0}
            for key, arms in self._arms.items()
        }

    def state(self) -> dict[str, dict[str, Arm]]:
        """What is to be kept across restarts."""
        return self._arms

    def load(self, arms: dict[str, dict[str, Arm]]) -> None:
        """Go on from a ``state``. Raises ValueError where it holds what is no effect of a healing."""
        kinds = {kind.value for kind in HealingKind}
        for key, by_kind in arms.items():
            for kind, arm in by_kind.items():
                if kind not in kinds or not (0.0 <= arm.tries < 1e9 and abs(arm.total) <= arm.tries + 1e-6):
                    raise ValueError(f"what was learned of {key[:80]!r} is no effect of a healing")
        self._arms = arms

    def _arm(self, key: str, kind: HealingKind) -> Arm:
        return self._arms.get(key, {}).get(kind.value) or Arm()


def _key(pattern: str, cause: str, provider: str) -> str:
    return f"{pattern}|{family(cause)}|{provider}"
