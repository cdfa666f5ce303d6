"""What a policy has learned is kept: the newest of each, beside the decisions, and known when it is damaged."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from storage_samples import NOW, OpenStore

from amaru.errors import StorageError
from amaru.storage import PolicyState


def learned(state: bytes = b"what was learned", **fields: object) -> PolicyState:
    base = {
        "policy": "thompson",
        "at": NOW,
        "settings": {"replays": 1, "fast_s": 20.5},
        "artifact": "v3",
        "outcomes": 7,
    }
    return PolicyState(state=state, **{**base, **fields})  # type: ignore[arg-type]  # a test's short hand


async def test_the_newest_state_of_each_policy_is_found_again_at_once_and_by_the_next_process(
    open_store: OpenStore,
) -> None:
    store = open_store()
    assert await store.policy("thompson") is None
    newest, other = learned(bytes(range(256)) * 100, outcomes=9), learned(policy="hybrid")
    for state in (learned(), other, newest):
        store.remember_policy(state)
    assert await store.policy("thompson") == newest
    assert await store.close()
    again = open_store()
    assert (await again.policy("thompson"), await again.policy("hybrid")) == (newest, other)


async def test_only_the_newest_is_kept(open_store: OpenStore, path: Path) -> None:
    store = open_store()
    for outcomes in range(50):
        store.remember_policy(learned(outcomes=outcomes))
    await store.flush()
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT name, outcomes, at, artifact FROM policy_states").fetchall() == [
            ("thompson", 49, NOW, "v3")
        ]


async def test_a_damaged_state_is_refused_with_the_file_and_the_policy(open_store: OpenStore, path: Path) -> None:
    store = open_store()
    store.remember_policy(learned())
    await store.close()
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE policy_states SET state = x'00'")
    with pytest.raises(StorageError, match=r"amaru\.db.*'thompson'.*damaged"):
        await open_store().policy("thompson")
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("DELETE FROM policy_states")
    assert await open_store().policy("thompson") is None


async def test_a_file_that_was_deleted_gets_the_state_again(open_store: OpenStore, path: Path) -> None:
    store = open_store()
    store.remember_policy(learned())
    await store.flush()
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)  # noqa: ASYNC240 - a test may wait for the disk
    await store.flush()
    await store.close()
    assert await open_store().policy("thompson") == learned()
