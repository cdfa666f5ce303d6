"""A session's analysis: the worst and the best of one process's life, what happened, and what helped."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from told_samples import NOW, healing, pattern

from amaru.domain import FailureKind
from amaru.health.healing import HealingKind
from amaru.health.memory import Memory, MemorySettings
from amaru.health.observation import Observation
from amaru.health.pattern_types import Traits
from amaru.health.report import HealthReport
from amaru.health.sense import Sense
from amaru.mesh.sessions import Session
from amaru.stability.field import StabilityField
from amaru.stability.field_settings import FieldReading, FieldSettings


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path, MemorySettings(), wall=lambda: NOW)


def reading(psi: float) -> FieldReading:
    return msgspec.structs.replace(StabilityField(FieldSettings(dimension=1, step_s=15.0)).step([1.0]), Psi=psi)


def report(failed: int = 0, *, asked: int = 20, psi: float | None = None, at: float = NOW) -> HealthReport:
    """Of one provider that was asked, and one that never was."""
    traits = [Traits(offer=f"{name}/sim", provider=name, resource="sim") for name in ("a", "b")]
    sense = Sense(traits)
    for number in range(asked):
        failure = FailureKind.SERVER_ERROR if number < failed else None
        sense.observe(
            Observation(
                offer="a/sim",
                provider="a",
                at=at - asked + number,
                ok=failure is None,
                failure=failure,
                latency_ms=100.0 + number,
            )
        )
    return sense.report(at, stability=None if psi is None else reading(psi), observed=asked, dropped=3)


def test_it_tells_the_worst_that_each_provider_was(memory: Memory) -> None:
    session = Session(NOW - 100.0)
    for failed in (0, 15, 2):
        session.saw(report(failed))
    told = session.analysis(report(), memory)
    worst, ill = told["providers"]["a"]["worst"], report(15).providers[0]
    assert worst["stability"] == pytest.approx(ill.stability)
    assert worst["coherence"] <= 1.0
    assert told["providers"]["a"]["status"] == "healthy"
    assert told["providers"]["b"] == {"status": "unknown", "now": 1.0, "worst": None}, "it was never asked"
    assert (told["began_at"], told["at"]) == (NOW - 100.0, NOW)
    assert told["attempts"] == {"observed": 20, "dropped": 3}


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ([], None),
        ([None], None),
        ([0.7], {"least": 0.7, "most": 0.7}),
        ([0.7, None, 0.9, 0.4, 0.8], {"least": 0.4, "most": 0.9}),
    ],
)
def test_it_tells_the_range_of_the_whole(memory: Memory, seen: list[float | None], told: object) -> None:
    session = Session(NOW)
    for psi in seen:
        session.saw(report(psi=psi))
    assert session.analysis(report(), memory)["stability"] == told


def test_it_counts_what_happened_since_it_began_and_what_helped(memory: Memory) -> None:
    session = Session(NOW)
    memory.remember(pattern("before", NOW - 1.0, cause="errors"))
    memory.remember(pattern("one", NOW))
    memory.remember(pattern("two", NOW + 1.0))
    memory.remember(healing("before", NOW - 1.0, effect=-1.0))
    memory.remember(healing("one", NOW, effect=0.25))
    memory.remember(healing("two", NOW + 1.0, effect=0.75))
    memory.remember(healing("three", NOW + 2.0, kind=HealingKind.DRAIN))
    told = session.analysis(report(at=NOW + 10.0), memory)
    assert told["patterns"] == {"degradation: latency": 2}
    assert told["healings"] == {"weight": 2, "drain": 1}
    assert told["effects"] == {"weight": 0.5}
    assert [words.partition(" times")[0] for words in told["recurring"]] == ["a: degradation (latency) 2"]


def test_it_can_be_written_as_json(memory: Memory) -> None:
    session = Session(NOW)
    session.saw(report(5, psi=0.6))
    told = session.analysis(report(5, psi=0.6), memory)
    assert msgspec.json.decode(msgspec.json.encode(told)) == told
