"""The cache answers at once for keys that it knows, and forgets what was changed at the next refresh."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from directory_samples import NOW, Clock
from sqlalchemy import text

from amaru.accounts.directory import Directory
from amaru.accounts.directory_keys import FoundKey
from amaru.accounts.key_cache import ABSENT_SIZE, KeyCache, admit
from amaru.accounts.keys import new_key
from amaru.accounts.pepper import Pepper
from amaru.accounts.schema import keys
from amaru.accounts.store import Store
from amaru.errors import RequestError, StorageError


@pytest.fixture
def cache(directory: Directory, clock: Clock) -> KeyCache:
    return KeyCache(directory, size=3, clock=clock)


@pytest.fixture
def asked(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Digests that the store was asked for."""
    found: list[bytes] = []
    whole = directory.keys.find_digest

    def find_digest(digest: bytes) -> FoundKey | None:
        found.append(digest)
        return whole(digest)

    monkeypatch.setattr(directory.keys, "find_digest", find_digest)
    return found


async def test_the_store_is_asked_once(directory: Directory, cache: KeyCache, asked: list[bytes]) -> None:
    made = directory.keys.create("filed", by="ann")
    key = made.key.encode()
    assert cache.find(key) is None
    first = await asyncio.gather(*(cache.fetch(key) for _ in range(20)))
    assert {admit(one, NOW).id for one in first} == {made.info.id}
    assert admit(cache.find(key), NOW) == made.info
    assert len(asked) == 1


async def test_no_number_of_foreign_keys_reaches_the_store(
    directory: Directory, cache: KeyCache, asked: list[bytes]
) -> None:
    directory.keys.create("filed", by="ann")
    foreign = Pepper(b"x" * 32)
    for _ in range(50):
        for key in (new_key(), foreign.new_key(), "", "sk-amaru-", "x" * 10_000):
            assert await cache.fetch(key.encode()) is None
    assert asked == []


async def test_keys_with_our_tag_that_are_not_there_are_remembered_within_bounds_until_a_refresh(
    directory: Directory, cache: KeyCache, asked: list[bytes], store: Store
) -> None:
    made = directory.keys.create("filed", by="ann").key.encode()
    with store.writing() as connection:
        connection.execute(keys.delete())
    for _ in range(3):
        assert await cache.fetch(made) is None
    assert len(asked) == 1
    await cache.refresh()
    assert await cache.fetch(made) is None
    assert len(asked) == 2
    cache._absent.update(number.to_bytes(2, "big") for number in range(ABSENT_SIZE))
    pepper = directory.keys.pepper()
    assert pepper is not None
    assert await cache.fetch(pepper.new_key().encode()) is None
    assert len(cache._absent) == ABSENT_SIZE + 1  # the one of before and the others, but not the last


async def test_it_is_bounded_and_keeps_those_that_come(
    directory: Directory, cache: KeyCache, asked: list[bytes]
) -> None:
    made = [directory.keys.create("filed", by="ann").key.encode() for _ in range(4)]
    for key in made[:3]:
        await cache.fetch(key)
    cache.find(made[0])
    await cache.fetch(made[3])
    assert [cache.find(key) is not None for key in made] == [True, False, True, True]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda directory, key: directory.keys.revoke(key, by="ann"), "was revoked"),
        (lambda directory, _: directory.tenants.archive("acme", by="ann"), "belongs to a tenant that was archived"),
        (lambda directory, _: directory.teams.archive("acme", "search", by="ann"), "a team that was archived"),
    ],
    ids=["revoked", "tenant", "team"],
)
async def test_what_is_changed_elsewhere_holds_after_a_refresh(
    open_directory: Callable[..., Directory], directory: Directory, cache: KeyCache, change: Callable, said: str
) -> None:
    directory.tenants.create("acme", by="ann")
    directory.teams.create("acme", "search", by="ann")
    made = directory.keys.create("acme", team="search", by="ann")
    kept = directory.keys.create("filed", by="ann").key.encode()
    await cache.fetch(made.key.encode())
    await cache.fetch(kept)
    change(open_directory(from_file=directory.from_file), made.info.id)
    changes = await cache.refresh()
    assert changes.subjects is not None
    assert len(changes.subjects) == 1
    assert cache.find(made.key.encode()) is None
    assert cache.find(kept) is not None
    with pytest.raises(RequestError, match=said) as refused:
        admit(await cache.fetch(made.key.encode()), NOW)
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")
    assert made.key not in str(refused.value)


async def test_a_look_up_that_a_revocation_overtakes_is_not_kept(
    directory: Directory, cache: KeyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = directory.keys.create("filed", by="ann")
    await cache.refresh()
    whole, began, go_on = directory.keys.find_digest, threading.Event(), threading.Event()

    def slow(digest: bytes) -> FoundKey | None:
        found = whole(digest)
        began.set()
        go_on.wait(60)
        return found

    monkeypatch.setattr(directory.keys, "find_digest", slow)
    fetching = asyncio.create_task(cache.fetch(made.key.encode()))
    await asyncio.to_thread(began.wait, 10)
    directory.keys.revoke(made.info.id, by="ann")
    await cache.refresh()
    go_on.set()
    assert admit(await fetching, NOW).id == made.info.id  # it was asked before
    assert cache.find(made.key.encode()) is None


async def test_an_expired_key_is_refused_though_it_is_known(
    directory: Directory, cache: KeyCache, clock: Clock
) -> None:
    made = directory.keys.create("filed", by="ann", expires_at=NOW + 60)
    found = await cache.fetch(made.key.encode())
    assert admit(found, NOW + 59).id == made.info.id
    with pytest.raises(RequestError, match="has expired"):
        admit(cache.find(made.key.encode()), NOW + 60)


def test_a_foreign_key_is_refused_without_saying_what_it_was() -> None:
    with pytest.raises(RequestError, match="Incorrect API key") as refused:
        admit(None, NOW)
    assert refused.value.status == 401


async def test_with_the_store_gone_known_keys_go_on(directory: Directory, cache: KeyCache, store: Store) -> None:
    known, other = (directory.keys.create("filed", by="ann").key.encode() for _ in range(2))
    await cache.fetch(known)
    with store.writing() as connection:
        for table in ("accounts_keys", "accounts_versions"):
            connection.execute(text(f"ALTER TABLE {table} RENAME TO gone_{table}"))
    with pytest.raises(StorageError):
        await cache.refresh()
    assert cache.find(known) is not None
    with pytest.raises(StorageError):
        await cache.fetch(other)
    with store.writing() as connection:
        for table in ("accounts_keys", "accounts_versions"):
            connection.execute(text(f"ALTER TABLE gone_{table} RENAME TO {table}"))
    await cache.refresh()
    assert await cache.fetch(other) is not None


async def test_the_first_key_is_known_to_a_gateway_that_ran_before_it(directory: Directory, cache: KeyCache) -> None:
    await cache.refresh()
    made = directory.keys.create("filed", by="ann")
    await cache.refresh()
    assert await cache.fetch(made.key.encode()) is not None


async def test_when_keys_were_last_used_is_told(directory: Directory, cache: KeyCache, clock: Clock) -> None:
    made = directory.keys.create("filed", by="ann")
    await cache.fetch(made.key.encode())
    clock.now += 5
    cache.find(made.key.encode())
    await cache.refresh()
    assert directory.keys.get(made.info.id).last_used_at is None
    await cache.tell_used()
    assert directory.keys.get(made.info.id).last_used_at == NOW + 5


async def test_when_keys_were_last_used_is_told_later_where_the_store_is_gone(
    directory: Directory, cache: KeyCache, store: Store
) -> None:
    made = directory.keys.create("filed", by="ann")
    await cache.fetch(made.key.encode())
    cache.find(made.key.encode())
    with store.writing() as connection:
        connection.execute(text("ALTER TABLE accounts_keys RENAME TO gone_keys"))
    with pytest.raises(StorageError):
        await cache.tell_used()
    with store.writing() as connection:
        connection.execute(text("ALTER TABLE gone_keys RENAME TO accounts_keys"))
    await cache.tell_used()
    assert directory.keys.get(made.info.id).last_used_at == NOW
