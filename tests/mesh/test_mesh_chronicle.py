"""The chronicle: what happens is counted once, remembered, and told; what is over is not kept for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from told_samples import NOW, healing, pattern

from amaru.health.memory import Memory, MemorySettings
from amaru.health.pattern_types import PatternKind
from amaru.mesh import chronicle
from amaru.mesh.chronicle import Chronicle
from amaru.mesh.feed import Feed


def memory_in(folder: Path) -> Memory:
    memory = Memory(folder, MemorySettings(), wall=lambda: NOW)
    memory.open()
    return memory


def test_each_is_counted_once_however_often_it_is_told() -> None:
    told = Chronicle(Feed(), None)
    for ended_at in (None, None, NOW + 60.0):
        told.pattern(pattern(ended_at=ended_at))
    told.pattern(pattern("r", kind=PatternKind.RECOVERY, ended_at=NOW + 60.0))
    assert told.patterns_seen == {"degradation": 1, "recovery": 1}
    assert [told.healing(healing()), told.healing(healing()), told.healing(healing(ended_at=NOW))] == [
        True,
        False,
        False,
    ]
    assert told.healings_taken == {"weight": 1}


def test_one_that_began_and_ended_between_two_looks_is_counted() -> None:
    told = Chronicle(Feed(), None)
    assert told.healing(healing(ended_at=NOW + 0.1))
    assert told.healings_taken == {"weight": 1}


def test_advice_is_no_healing_that_was_taken() -> None:
    told = Chronicle(Feed(), None)
    assert not told.healing(healing(applied=False))
    assert told.healings_taken == {}


def test_what_is_over_takes_no_memory() -> None:
    told = Chronicle(Feed(), None)
    for number in range(1000):
        told.pattern(pattern(f"p{number}"))
        told.healing(healing(f"h{number}"))
        told.pattern(pattern(f"p{number}", ended_at=NOW))
        told.healing(healing(f"h{number}", ended_at=NOW))
    assert told.patterns_seen == {"degradation": 1000}
    assert len(told._known) == 0


def test_what_goes_on_across_a_restart_is_not_counted_anew(tmp_path: Path) -> None:
    before = memory_in(tmp_path)
    told = Chronicle(Feed(), before)
    told.pattern(pattern())
    told.healing(healing())
    draft = before.draft(states=False)
    assert draft is not None
    before.write(draft)
    after = Chronicle(Feed(), memory_in(tmp_path))
    after.pattern(pattern(ended_at=NOW + 60.0))
    assert not after.healing(healing(ended_at=NOW + 60.0))
    assert (after.patterns_seen, after.healings_taken) == ({}, {})


async def test_all_who_listen_are_told() -> None:
    feed = Feed()
    listener = feed.listen()
    assert listener is not None
    told = Chronicle(feed, None)
    told.pattern(pattern())
    told.healing(healing())
    first, second = await listener.next(), await listener.next()
    assert first is not None
    assert second is not None
    assert (first.kind, first.data["id"], second.kind, second.data["id"]) == ("pattern", "p", "healing", "h")


def test_healings_are_those_remembered_and_those_known_newest_first(tmp_path: Path) -> None:
    told = Chronicle(Feed(), memory_in(tmp_path))
    told.healing(healing("old", NOW))
    told.healing(healing("both", NOW + 1.0))
    known = [healing("both", NOW + 1.0, effect=0.5), healing("new", NOW + 2.0)]
    assert [(one.id, one.effect) for one in told.healings(known)] == [("new", None), ("both", 0.5), ("old", None)]


def test_what_comes_again_is_worked_out_once_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, asked = Chronicle(Feed(), memory_in(tmp_path)), list[float]()
    recurring = chronicle.recurring
    monkeypatch.setattr(
        chronicle, "recurring", lambda patterns, since: asked.append(since) or recurring(patterns, since=since)
    )
    for number in range(3):
        told.pattern(pattern(f"p{number}", NOW - 100.0 * number))
    for now in (NOW, NOW + 1.0, NOW + 59.0):
        (again,) = told.lately(now)
        assert (again.provider, again.count) == ("a", 3)
    assert asked == [NOW - chronicle.RECENT_S]
    told.pattern(pattern("p3", NOW + 59.0))
    assert [one.count for one in told.lately(NOW + 60.0)] == [4]
    assert [one.count for one in told.lately(NOW)] == [4], "the clock was set back"
    assert len(asked) == 3
