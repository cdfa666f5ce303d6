"""Keys, leaves and ways to look at a log, for the tests of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from amaru.ledger.canonical import canonical
from amaru.ledger.log import Log
from amaru.ledger.merkle import leaf_hash, root_of, verify_inclusion
from amaru.ledger.notes import NoteSigner
from amaru.ledger.view import LogView

ORIGIN = "example.com/ledger"
KEY = NoteSigner(ORIGIN, bytes(range(32)))
OTHER_KEY = NoteSigner(ORIGIN, bytes(range(1, 33)))


def make_leaf(number: int, padding: int = 0) -> bytes:
    """A receipt's canonical JSON."""
    return canonical({"number": number, "padding": "x" * padding, "type": "test"})


def leaves(start: int, end: int) -> list[bytes]:
    return [make_leaf(number) for number in range(start, end)]


def open_log(root: Path, **more: int) -> Log:
    return Log.open(str(root), [KEY], **more)


def view_of(root: Path) -> LogView:
    return LogView.at(str(root), [KEY.verifier])


def assert_holds(view: LogView, expected: Sequence[bytes]) -> None:
    """The log holds these leaves, and proves a few of them."""
    assert view.size == len(expected)
    assert list(view.entries(0, view.size)) == list(expected)
    assert view.head.root == root_of([leaf_hash(leaf) for leaf in expected])
    for index in {0, len(expected) // 2, len(expected) - 1} if expected else ():
        proof = view.inclusion(index)
        verify_inclusion(leaf_hash(expected[index]), index, view.size, proof.path, view.head.root)
