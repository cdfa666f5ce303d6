"""Keys of the store: seen once, known by a keyed hash alone, rotated with overlap, and over when they are over."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from directory_samples import NOW, Clock, budget
from sqlalchemy import text

from amaru.accounts.allowances import Scope
from amaru.accounts.directory import Directory
from amaru.accounts.keys import new_key
from amaru.accounts.pepper import Pepper, load_pepper
from amaru.accounts.schema import metadata
from amaru.accounts.store import Store
from amaru.errors import AccountConflict, AccountError, StorageError, UnknownAccount

Opener = Callable[..., Directory]


def contents(store: Store) -> str:
    """All rows of all tables."""
    with store.reading() as connection:
        return "\n".join(
            repr(row) for table in metadata.sorted_tables for row in connection.execute(text(f"SELECT * FROM {table}"))
        )


def test_a_key_is_found_and_nothing_in_the_store_is_the_key(directory: Directory, store: Store, tmp_path: Path) -> None:
    directory.teams.create("filed", "search", by="ann")
    made = directory.keys.create("filed", by="ann", team="search", name="nightly")
    assert made.key.startswith("sk-amaru-")
    assert made.key not in repr(made)
    found = directory.keys.find(made.key.encode())
    assert found is not None
    assert (found.info, found.archived) == (made.info, "")
    assert (made.info.lineage, made.info.last4, made.info.created_by) == (made.info.id, made.key[-4:], "ann")
    held = contents(store)
    pepper = load_pepper(tmp_path / "one" / "accounts.pepper")
    assert pepper is not None
    assert made.info.id in held
    assert made.key[9:-10] not in held
    assert repr(pepper._secret)[2:-1] not in held


def test_the_pepper_is_for_its_owner_alone(directory: Directory, tmp_path: Path) -> None:
    path = tmp_path / "one" / "accounts.pepper"
    assert not path.exists()
    directory.keys.create("filed", by="ann")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "key",
    ["", "sk-", *("sk-amaru-" + rest for rest in ("", "A" * 43, "A" * 52, "é" * 26, "A" * 51 + "=", "A" * 10**6))],
    ids=range(8),
)
def test_what_is_no_key_of_ours_is_not_looked_for(directory: Directory, key: str) -> None:
    directory.keys.create("filed", by="ann")
    assert directory.keys.digest(key.encode()) is None
    assert directory.keys.find(key.encode()) is None


def test_a_key_with_one_character_changed_is_not_ours(directory: Directory) -> None:
    key = directory.keys.create("filed", by="ann").key
    for place in range(len(key)):
        other = key[:place] + ("A" if key[place] != "A" else "B") + key[place + 1 :]
        assert directory.keys.digest(other.encode()) is None


def test_a_key_of_another_gateway_is_foreign(directory: Directory) -> None:
    directory.keys.create("filed", by="ann")
    assert directory.keys.find(Pepper(b"x" * 32).new_key().encode()) is None


def test_rotation_overlaps_and_shares_the_budget(directory: Directory, clock: Clock) -> None:
    old = directory.keys.create("filed", by="ann", name="app")
    directory.allowances.set(budget(Scope.KEY, old.info.id), by="ann")
    new = directory.keys.rotate(old.info.id, by="bob", overlap_s=3600)
    assert new.key != old.key
    assert (new.info.lineage, new.info.name, new.info.tenant) == (old.info.id, "app", "filed")
    assert directory.keys.get(old.info.id).expires_at == NOW + 3600
    clock.now += 3599
    assert not directory.keys.find(old.key.encode()).info.is_over(clock.now)
    clock.now += 1
    assert directory.keys.find(old.key.encode()).info.is_over(clock.now)
    assert not directory.keys.find(new.key.encode()).info.is_over(clock.now)
    again = directory.keys.rotate(new.info.id, by="bob")
    assert again.info.lineage == old.info.id
    bound = directory.allowances.set(budget(Scope.KEY, again.info.id, amount=7), by="ann")
    assert [one.id for one in directory.allowances.stored()] == [bound.id] == [f"key:{old.info.id}:usd:month"]
    assert [row.action for row in directory.log.page(3)] == ["allowance.set", "key.rotate", "key.expire"]


def test_rotation_never_lengthens_a_key(directory: Directory) -> None:
    old = directory.keys.create("filed", by="ann", expires_at=NOW + 60)
    directory.keys.rotate(old.info.id, by="ann", overlap_s=3600)
    assert directory.keys.get(old.info.id).expires_at == NOW + 60


def test_a_revoked_key_stays_revoked(directory: Directory, clock: Clock) -> None:
    made = directory.keys.create("filed", by="ann")
    clock.now += 5
    assert directory.keys.revoke(made.info.id, by="bob").revoked_at == NOW + 5
    clock.now += 5
    assert directory.keys.revoke(made.info.id, by="bob").revoked_at == NOW + 5
    assert directory.keys.page().items == []
    assert [one.id for one in directory.keys.page(over=True).items] == [made.info.id]
    for change in (
        lambda: directory.keys.expire(made.info.id, NOW + 1e6, by="ann"),
        lambda: directory.keys.rotate(made.info.id, by="ann"),
    ):
        with pytest.raises(AccountConflict, match="is revoked already; make a new one"):
            change()


def test_expiry_is_set_moved_and_taken_away_while_the_key_lasts(directory: Directory, clock: Clock) -> None:
    made = directory.keys.create("filed", by="ann", expires_at=NOW + 60)
    assert directory.keys.expire(made.info.id, NOW + 120, by="ann").expires_at == NOW + 120
    assert directory.keys.expire(made.info.id, None, by="ann").expires_at is None
    directory.keys.expire(made.info.id, NOW + 30, by="ann")
    clock.now += 30
    with pytest.raises(AccountConflict, match="is expired already"):
        directory.keys.expire(made.info.id, NOW + 120, by="ann")


@pytest.mark.parametrize("at", [NOW, NOW - 1, float("nan"), float("inf"), float("-inf")])
def test_expiry_in_the_past_is_refused(directory: Directory, at: float) -> None:
    made = directory.keys.create("filed", by="ann")
    for change in (
        lambda: directory.keys.create("filed", by="ann", expires_at=at),
        lambda: directory.keys.expire(made.info.id, at, by="ann"),
        lambda: directory.keys.rotate(made.info.id, by="ann", expires_at=at),
    ):
        with pytest.raises(AccountError, match="cannot expire in the past"):
            change()
    assert [one.id for one in directory.keys.page(over=True).items] == [made.info.id]


@pytest.mark.parametrize("overlap_s", [-1, float("nan"), float("inf"), 1e9])
def test_an_overlap_that_cannot_be(directory: Directory, overlap_s: float) -> None:
    made = directory.keys.create("filed", by="ann")
    with pytest.raises(AccountError, match="an overlap is at least 0 s and at most 400 days"):
        directory.keys.rotate(made.info.id, by="ann", overlap_s=overlap_s)


def test_a_key_is_for_somebody_who_is_there(directory: Directory) -> None:
    with pytest.raises(UnknownAccount, match='there is no tenant "nobody"'):
        directory.keys.create("nobody", by="ann")
    with pytest.raises(UnknownAccount, match='tenant "filed" has no team "none"'):
        directory.keys.create("filed", team="none", by="ann")
    with pytest.raises(UnknownAccount, match='there is no key "k-0"'):
        directory.keys.revoke("k-0", by="ann")
    with pytest.raises(UnknownAccount, match="looks like a secret"):  # a key in place of its id is not repeated
        directory.keys.get(new_key())


def test_what_is_archived_is_told(directory: Directory) -> None:
    directory.tenants.create("acme", by="ann")
    directory.teams.create("acme", "search", by="ann")
    key = directory.keys.create("acme", team="search", by="ann").key.encode()
    directory.teams.archive("acme", "search", by="ann")
    assert directory.keys.find(key).archived == "team"
    directory.teams.restore("acme", "search", by="ann")
    directory.tenants.archive("acme", by="ann")
    assert directory.keys.find(key).archived == "tenant"


def test_when_a_key_was_last_used_never_goes_back(directory: Directory) -> None:
    first, second = (directory.keys.create("filed", by="ann").info.id for _ in range(2))
    version = directory.log.version()
    directory.keys.mark_used({})
    directory.keys.mark_used({first: NOW + 5, second: NOW + 1, "k-gone": NOW})
    directory.keys.mark_used({first: NOW + 3, second: NOW + 2})
    assert directory.keys.get(first).last_used_at == NOW + 5
    assert directory.keys.get(second).last_used_at == NOW + 2
    assert directory.log.version() == version


def test_keys_are_listed_in_pages(directory: Directory) -> None:
    directory.tenants.create("acme", by="ann")
    made = sorted(directory.keys.create("acme", by="ann").info.id for _ in range(5))
    directory.keys.create("filed", by="ann")
    first, cursor = directory.keys.page(tenant="acme", limit=3)
    assert [one.id for one in first] == made[:3]
    assert [one.id for one in directory.keys.page(tenant="acme", cursor=cursor).items] == made[3:]


def test_a_lost_pepper_is_told_and_never_made_anew(
    open_directory: Opener, directory: Directory, tmp_path: Path
) -> None:
    key = directory.keys.create("filed", by="ann").key
    path = tmp_path / "one" / "accounts.pepper"
    kept = path.read_bytes()
    path.unlink()
    again = open_directory(from_file=directory.from_file)
    for act in (lambda: again.keys.find(key.encode()), lambda: again.keys.create("filed", by="ann")):
        with pytest.raises(StorageError, match=r"accounts\.pepper: the pepper of the keys in .* is not there"):
            act()
    assert not path.exists()
    path.write_bytes(kept)
    path.chmod(0o600)
    assert again.keys.find(key.encode()) is not None


def test_another_machine_needs_the_same_pepper(open_directory: Opener, directory: Directory, tmp_path: Path) -> None:
    key = directory.keys.create("filed", by="ann").key
    theirs = tmp_path / "two" / "accounts.pepper"
    theirs.parent.mkdir()
    theirs.write_bytes(b"x" * 32)
    theirs.chmod(0o600)
    other = open_directory("two", from_file=directory.from_file)
    with pytest.raises(StorageError, match="another pepper than the keys in"):
        other.keys.create("filed", by="ann")
    theirs.write_bytes((tmp_path / "one" / "accounts.pepper").read_bytes())
    assert other.keys.find(key.encode()) is not None


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"x" * 31, 0o600, "holds no pepper"),
        (b"x" * 33, 0o600, "holds no pepper"),
        (b"x" * 32, 0o644, "others may read"),
    ],
)
def test_a_pepper_that_cannot_be_used(
    directory: Directory, tmp_path: Path, content: bytes, mode: int, said: str
) -> None:
    path = tmp_path / "one" / "accounts.pepper"
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(StorageError, match=said):
        directory.keys.create("filed", by="ann")
    assert directory.keys.page(over=True).items == []


def test_what_is_asked_for_once_is_made_once(directory: Directory) -> None:
    made = directory.keys.create("filed", by="ann", once="order 7")
    with pytest.raises(AccountConflict, match=f"made key {made.info.id}, which is shown once: rotate it"):
        directory.keys.create("filed", by="ann", once="order 7")
    assert directory.keys.create("filed", by="bob", once="order 7").info.id != made.info.id
    directory.keys.rotate(made.info.id, by="ann", once="order 8")
    with pytest.raises(AccountConflict, match="asked for already"):
        directory.keys.rotate(made.info.id, by="ann", once="order 8")
    assert len(directory.keys.page(over=True).items) == 3
