"""A log whose folder is removed, moved, or put back from an old copy under its writer, or before it starts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from log_samples import assert_holds, leaves, make_leaf, open_log, view_of

from amaru.errors import LedgerBusy, LedgerCorrupt, LedgerError
from amaru.ledger.log import Log
from amaru.ledger.place import Place, found
from amaru.ledger.place import open_log as open_at


@pytest.mark.parametrize("step", [lambda log: log.commit(leaves(3, 5)), Log.publish, Log.settle])
def test_a_log_that_was_moved_away_takes_nothing_until_it_is_back(
    tmp_path: Path, step: Callable[[Log], object]
) -> None:
    root, away = tmp_path / "log", tmp_path / "away"
    with open_log(root) as log:
        log.append(leaves(0, 2))
        log.commit([make_leaf(2)])
        root.rename(away)
        with pytest.raises(LedgerError, match="is no longer here"):
            step(log)
        assert not root.exists()
        away.rename(root)
        log.append(leaves(3, 5))
        assert_holds(view_of(root), leaves(0, 5))


def test_a_folder_that_lies_there_instead_is_not_written(tmp_path: Path) -> None:
    root = tmp_path / "log"
    with open_log(root) as log:
        log.append(leaves(0, 2))
        root.rename(tmp_path / "away")
        with open_log(root):
            pass
        with pytest.raises(LedgerBusy, match="another folder lies here by now"):
            log.append([make_leaf(2)])
        log.abandon()
    assert_holds(view_of(root), [])
    assert_holds(view_of(tmp_path / "away"), leaves(0, 2))


def test_a_lock_that_was_removed_lets_nobody_write_beside_its_holder(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(leaves(0, 2))
        (tmp_path / "lock").unlink()
        with open_log(tmp_path) as other:
            other.append([make_leaf(2)])
            with pytest.raises(LedgerBusy):
                log.append([make_leaf(99)])
            log.abandon()
    assert_holds(view_of(tmp_path), leaves(0, 3))


def test_no_second_history_is_begun_by_the_same_key(tmp_path: Path) -> None:
    place = Place.of(str(tmp_path / "ledger"), tmp_path)
    found(place)
    for number in range(2):
        with open_at(place) as log:
            log.append([make_leaf(number)])
    shutil.rmtree(place.url)
    with pytest.raises(LedgerCorrupt, match="shows 0 leaves, and had 1") as caught:
        open_at(place)
    assert str(place.seen) in str(caught.value)


def test_a_log_put_back_from_an_older_copy_is_not_written_on(tmp_path: Path) -> None:
    place = Place.of(str(tmp_path / "ledger"), tmp_path)
    found(place)
    with open_at(place) as log:
        log.append(leaves(0, 3))
    shutil.copytree(place.url, tmp_path / "copy")
    with open_at(place) as log:
        log.append(leaves(3, 300))
    open_at(place).close()
    newest = Path(place.url).rename(tmp_path / "newest")
    shutil.copytree(tmp_path / "copy", place.url)
    with pytest.raises(LedgerCorrupt, match="shows 3 leaves, and had 300"):
        open_at(place)
    shutil.rmtree(place.url)
    newest.rename(place.url)
    with open_at(place) as log:
        assert_holds(log, leaves(0, 300))
