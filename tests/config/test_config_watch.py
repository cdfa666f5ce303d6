"""A changed file is taken up once it is still, a broken one is refused, and nothing else happens."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from amaru.config import Config, ConfigWatcher, load
from amaru.errors import ConfigError

TEXT = "version: 1\nserver: {{port: {port}}}\n"


class Watched:
    """A watcher over a file, with what it reported."""

    def __init__(self, path: Path, text: str = TEXT.format(port=1)) -> None:
        self.path = path
        path.write_text(text)
        self.changes: list[tuple[Config, tuple[str, ...]]] = []
        self.refusals: list[list[str]] = []
        self.watcher = ConfigWatcher(load(path, {}), self._changed, self.refusals.append, env={})
        assert self.watcher.check() is None
        assert self.watcher.check() is None

    def _changed(self, config: Config, restart: tuple[str, ...]) -> None:
        self.changes.append((config, restart))

    async def look(self, times: int = 2) -> None:
        for _ in range(times):
            await self.watcher.reload(settled=False)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "amaru.yaml")


def test_a_change_is_read_when_it_is_still(watched: Watched) -> None:
    watched.path.write_text("version: 1\nser")
    assert watched.watcher.check() is None
    watched.path.write_text(TEXT.format(port=22))
    assert watched.watcher.check() is None
    new = watched.watcher.check()
    assert new is not None
    assert new.server.port == 22


async def test_a_change_is_handed_over_once_with_what_needs_a_restart(watched: Watched) -> None:
    watched.path.write_text(TEXT.format(port=22))
    await watched.look(4)
    ((config, restart),) = watched.changes
    assert config.server.port == 22
    assert restart == ("server.port",)
    assert watched.watcher.current is config


async def test_a_broken_file_is_refused_once_and_its_repair_is_taken(watched: Watched) -> None:
    watched.path.write_text("version: 1\nserver: {port: high}\n")
    await watched.look(4)
    assert [len(problems) for problems in watched.refusals] == [1]
    assert watched.watcher.current.server.port == 1
    watched.path.write_text(TEXT.format(port=22))
    await watched.look()
    assert watched.watcher.current.server.port == 22


def test_check_raises_for_a_broken_file(watched: Watched) -> None:
    watched.path.write_text("version: 3\n")
    watched.watcher.check()
    with pytest.raises(ConfigError, match="version"):
        watched.watcher.check()


async def test_touching_changes_nothing(watched: Watched) -> None:
    os.utime(watched.path, ns=(1, 1))
    await watched.look(3)
    assert (watched.changes, watched.refusals) == ([], [])


async def test_a_rename_over_the_file_is_seen(watched: Watched) -> None:
    status = watched.path.stat()
    other = watched.path.with_name("new")
    other.write_text(TEXT.format(port=2))  # of the same size, and given the same time: only the inode differs
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(watched.path)
    await watched.look()
    assert watched.watcher.current.server.port == 2


async def test_a_file_that_is_gone_for_a_moment_is_no_mistake(watched: Watched) -> None:
    watched.path.rename(watched.path.with_name("aside"))
    await watched.look(1)
    watched.path.with_name("aside").rename(watched.path)
    await watched.look(3)
    assert (watched.changes, watched.refusals) == ([], [])


async def test_a_config_map_swap_is_seen(tmp_path: Path) -> None:
    """Kubernetes: amaru.yaml → ..data/amaru.yaml, and ..data → a dated folder, is swapped by a rename."""
    for name, port in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "amaru.yaml").write_text(TEXT.format(port=port))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "amaru.yaml").symlink_to("..data/amaru.yaml")
    changes: list[Config] = []
    watcher = ConfigWatcher(
        load(tmp_path / "amaru.yaml", {}), lambda config, _: changes.append(config), pytest.fail, env={}
    )
    assert [watcher.check(), watcher.check()] == [None, None]
    (tmp_path / "..next").symlink_to("two")
    (tmp_path / "..next").replace(tmp_path / "..data")
    await watcher.reload(settled=False)
    await watcher.reload(settled=False)
    assert [config.server.port for config in changes] == [2]


KEYED = "providers: {p: {base_url: 'https://h/v1', key_file: KEY}}\n"


async def test_a_rotated_key_file_is_a_change(tmp_path: Path) -> None:
    (tmp_path / "KEY").write_text("first-key")
    watched = Watched(tmp_path / "amaru.yaml", KEYED)
    (tmp_path / "KEY").write_text("second-key")
    await watched.look()
    key = watched.watcher.current.providers()["p"].key
    assert key is not None
    assert key.get_secret_value() == "second-key"


async def test_the_arrival_of_a_missing_key_file_repairs_a_refused_file(watched: Watched) -> None:
    watched.path.write_text(KEYED)
    await watched.look(3)
    assert len(watched.refusals) == 1
    watched.path.with_name("KEY").write_text("a-key")
    await watched.look()
    assert len(watched.changes) == 1


async def test_a_change_that_cannot_be_applied_is_refused(watched: Watched) -> None:
    def refuse(config: Config, restart: tuple[str, ...]) -> None:
        raise RuntimeError("no")

    watcher = ConfigWatcher(load(watched.path, {}), refuse, watched.refusals.append, env={})
    watched.path.write_text(TEXT.format(port=22))
    assert not await watcher.reload()
    assert "could not be applied: RuntimeError" in watched.refusals[0][0]
    assert watcher.current.server.port == 1


async def test_a_hang_up_reads_at_once(watched: Watched) -> None:
    watched.path.write_text(TEXT.format(port=22))
    assert await watched.watcher.reload()
    assert watched.watcher.current.server.port == 22


async def test_run_looks_once_an_interval(watched: Watched) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            watched.path.write_text(TEXT.format(port=22))
        if len(waits) == 5:
            raise asyncio.CancelledError

    watcher = ConfigWatcher(
        load(watched.path, {}), watched._changed, watched.refusals.append, interval_s=3, env={}, sleep=sleep
    )
    with pytest.raises(asyncio.CancelledError):
        await watcher.run()
    assert waits == [3] * 5
    assert [config.server.port for config, _ in watched.changes] == [22]


async def test_what_takes_time_to_apply_is_waited_for_and_refused_where_it_fails(watched: Watched) -> None:
    applied: list[int] = []
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def apply(config: Config, _: tuple[str, ...]) -> None:
        entered.set()
        await go_on.wait()
        applied.append(config.server.port)
        if config.server.port == 33:
            raise ValueError("nothing there")

    watcher = ConfigWatcher(load(watched.path, {}), apply, watched.refusals.append, env={})
    watched.path.write_text(TEXT.format(port=22))
    looking = asyncio.create_task(watcher.reload())
    await entered.wait()
    assert applied == []
    assert watcher.current.server.port == 1
    go_on.set()
    assert await looking
    assert watcher.current.server.port == 22
    watched.path.write_text(TEXT.format(port=33))
    assert not await watcher.reload()
    assert watcher.current.server.port == 22
    assert "nothing there" in watched.refusals[-1][0]
