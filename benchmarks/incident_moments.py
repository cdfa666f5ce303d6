"""What prediction is fitted to and judged by: the features of every offer, every ten seconds of a generated world, and
whether it then failed hard within a minute."""

from __future__ import annotations

import msgspec
import numpy as np

from amaru.health.features import N_FEATURES
from amaru.health.incidents import World
from amaru.health.signature import Signatures

AHEAD_S = 60.0
EVERY_S = 10.0
FIRST_S = 1800.0
"""Nothing is judged before: what is usual is learned first."""


class Moments(msgspec.Struct, frozen=True):
    """Rows are moments of one offer."""

    features: np.ndarray
    """float64 [rows, N_FEATURES]."""
    fails: np.ndarray
    """bool: it fails hard within ``AHEAD_S``, or does already."""


def moments(world: World, seconds: float) -> Moments:
    """All of one world."""
    signatures = Signatures()
    offers = [traits.offer for traits in world.mesh.traits]
    spans = [world.hard(offer) for offer in offers]
    times = np.arange(world.begins + FIRST_S, world.begins + seconds - AHEAD_S, EVERY_S)
    features = np.zeros((len(times) * len(offers), N_FEATURES))
    fails = np.zeros(len(features), dtype=bool)
    row, time = 0, 0
    for observation in world.observations(seconds):
        while time < len(times) and observation.at >= times[time]:
            at = float(times[time])
            for offer, hard in zip(offers, spans, strict=True):
                features[row] = signatures.features(offer, at)
                fails[row] = any(begins < at + AHEAD_S and ends > at for begins, ends in hard)
                row += 1
            time += 1
        signatures.observe(observation)
    return Moments(features[:row], fails[:row])


def joined(parts: list[Moments]) -> Moments:
    """Several worlds as one."""
    return Moments(np.concatenate([part.features for part in parts]), np.concatenate([part.fails for part in parts]))
