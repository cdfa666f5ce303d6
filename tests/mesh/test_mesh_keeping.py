"""The keeper: what is remembered reaches the disk beside the loop, is tried again where it fails, and is read again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from told_samples import NOW, pattern

from amaru.config import parse
from amaru.health.memory import Draft, MemorySettings
from amaru.mesh import keeping
from amaru.mesh.keeping import Keeper, keeper_of


class Disk:
    """A folder, and keepers of it that come one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = NOW

    def keeper(self) -> Keeper:
        return Keeper(self.folder, MemorySettings(), wall=lambda: self.now)

    def remembered(self) -> list[str]:
        return list(self.keeper().memory.patterns)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "health")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60.0):
        while not condition():  # noqa: ASYNC110 - of a thread, which has no event to wait for
            await asyncio.sleep(0.002)


async def test_what_is_remembered_is_read_by_the_next_one(disk: Disk) -> None:
    keeper = disk.keeper()
    keeper.memory.remember(pattern("one"))
    keeper.memory.keep("signatures", b"state")
    keeper.write()
    await keeper.aclose()
    after = disk.keeper().memory
    assert (list(after.patterns), after.parts) == (["one"], {"signatures": b"state"})


async def test_nothing_is_written_where_nothing_is_new(disk: Disk) -> None:
    keeper = disk.keeper()
    keeper.write()
    await keeper.aclose()
    assert not disk.folder.exists()


async def test_states_are_due_at_once_and_then_every_few_seconds(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = disk.keeper()
    assert keeper.states_due
    keeper.write()
    assert not keeper.states_due
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: keeper._states_at)
    assert keeper.states_due


async def test_a_disk_that_hangs_holds_up_nobody_and_what_comes_meanwhile_is_written_next(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = disk.keeper()
    write, go_on, drafts = keeper.memory.write, threading.Event(), list[list[str]]()

    def hang(draft: Draft) -> None:
        drafts.append([one.id for one in draft.patterns])
        assert go_on.wait(60.0)
        write(draft)

    monkeypatch.setattr(keeper.memory, "write", hang)
    keeper.memory.remember(pattern("one"))
    keeper.write()
    await until(lambda: len(drafts) == 1)
    keeper.memory.remember(pattern("two"))
    for _ in range(3):
        keeper.write()
    assert drafts == [["one"]], "one draft at a time"
    go_on.set()
    await keeper.aclose()
    assert drafts == [["one"], ["one", "two"]]
    assert disk.remembered() == ["one", "two"]


async def test_what_could_not_be_written_is_tried_again(disk: Disk) -> None:
    disk.folder.parent.mkdir(exist_ok=True)
    disk.folder.write_text("a file where the folder should be")
    keeper = disk.keeper()
    keeper.memory.remember(pattern("one"))
    keeper.memory.keep("signatures", b"state")
    keeper.memory.export("infrastructure_state", NOW, {"at": NOW})
    keeper.write()
    await until(lambda: bool(keeper.memory.failure))
    disk.folder.unlink()
    await keeper.aclose()
    assert keeper.memory.failure == ""
    assert disk.remembered() == ["one"]
    assert disk.keeper().memory.parts == {"signatures": b"state"}
    assert len(list(disk.folder.glob("infrastructure_state_*.json"))) == 1


async def test_a_disk_that_is_too_slow_does_not_keep_amaru_from_ending(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "LAST_S", 0.01)
    keeper, go_on = disk.keeper(), threading.Event()
    monkeypatch.setattr(keeper.memory, "write", lambda draft: go_on.wait(60.0))
    keeper.memory.remember(pattern("one"))
    async with asyncio.timeout(30.0):
        await keeper.aclose()
    go_on.set()


async def test_what_went_on_when_the_process_ended_is_over_unless_it_goes_on(disk: Disk) -> None:
    keeper = disk.keeper()
    for id, fields in (("on", {}), ("lost", {}), ("over", {"ended_at": NOW - 5.0}), ("ahead", {"at": NOW + 90.0})):
        keeper.memory.remember(pattern(**{"id": id, "at": NOW - 60.0, **fields}))  # type: ignore[arg-type]
    keeper.end_all_but({"on"}, NOW)
    ended = {one.id: one.ended_at for one in keeper.memory.patterns.values()}
    assert ended == {"on": None, "lost": NOW, "over": NOW - 5.0, "ahead": NOW + 90.0}, "nothing ends before it begins"
    assert keeper.memory.patterns["lost"].detail.endswith("; amaru was stopped meanwhile")
    assert "stopped" not in keeper.memory.patterns["over"].detail


def test_it_keeps_what_the_configuration_says_where_it_says(tmp_path: Path) -> None:
    price = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}
    settings = {
        "version": 1,
        "server": {"auth": "none"},
        "providers": {"a": {"base_url": "http://127.0.0.1:1/v1"}},
        "offers": [{"provider": "a", "resource": "sim", "price": price}],
        "health": {
            "path": str(tmp_path / "kept"),
            "retention_files": 7,
            "retention_days": 2,
            "history_days": 30,
        },
    }
    text = yaml.safe_dump(settings)
    memory = keeper_of(parse(text, env={}), lambda: NOW).memory
    assert memory.folder == tmp_path / "kept"
    assert memory.settings == MemorySettings(files=7, days=2, history_days=30)
