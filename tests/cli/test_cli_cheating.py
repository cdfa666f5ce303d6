"""Each way to cheat, as whoever checks a log sees it: what `remembrancer` says of it, and the first leaf at fault.

``tests/ledger/test_cheating.py`` holds the audit itself to more of them.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amaru.cli.remembrancer import app
from amaru.cli.remembrancer_session import ExitCode
from amaru.ledger.checkpoint import Checkpoint, read_checkpoint
from amaru.ledger.growth import Edge
from amaru.ledger.keys import load_signers, make_key
from amaru.ledger.merkle import EMPTY_ROOT
from amaru.ledger.notes import NoteSigner
from amaru.ledger.place import Place, found, open_log
from amaru.ledger.receipts import Incident, leaf_of, rfc3339
from amaru.ledger.tile_store import FolderStore
from amaru.ledger.tiles import Tile, decode_entries, encode_entries

SIZES = (100, 300, 600)
BUNDLE = "tile/entries/001"
"""Holds the leaves 256 to 511."""
NAME = "example.org/ledger"

Says = Callable[..., str]


def leaf(number: int) -> bytes:
    return leaf_of(Incident(at=rfc3339(1_790_000_000.0 + number), component="north", note=f"number {number}"))


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest")
    place = Place.of(str(folder / "log"), folder)
    found(place, NAME)
    with open_log(place) as log:
        for start, end in zip((0, *SIZES), SIZES, strict=False):
            log.append([leaf(number) for number in range(start, end)])
    return folder


@pytest.fixture
def root(honest: Path, tmp_path: Path) -> Path:
    """The log's files, for whoever has the disk."""
    shutil.copytree(honest, tmp_path, dirs_exist_ok=True)
    return tmp_path / "log"


@pytest.fixture
def says(root: Path, monkeypatch: pytest.MonkeyPatch) -> Says:
    """What a command about that log says, in one line; it is to find that something does not hold."""
    monkeypatch.chdir(root.parent)
    for name in ("AMARU_LEDGER", "AMARU_LEDGER_INDEX", "AMARU_CONFIG", "AMARU_STORAGE__PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: str, code: int = ExitCode.UNPROVEN) -> str:
        ledger = () if arguments[0] == "verify-proof" else ("--ledger", "log")
        done = CliRunner().invoke(app, [*arguments, *ledger], catch_exceptions=False)
        assert done.exit_code == code, done.output
        return " ".join((done.stdout + done.stderr).split())

    return run


def key_of(root: Path) -> NoteSigner:
    return load_signers(root.parent / "log.keys" / "signing-key")[0]


def edit(root: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    (root / BUNDLE).write_bytes(encode_entries(change(decode_entries((root / BUNDLE).read_bytes()))))


def earlier(root: Path, size: int) -> bytes:
    """The checkpoint of that size, as it was published."""
    newest = max((root / "checkpoints/000.p").iterdir(), key=lambda path: int(path.name))
    return next(note for note in decode_entries(newest.read_bytes()) if read_checkpoint(note).size == size)


def rebuild(root: Path, leaves: list[bytes]) -> Checkpoint:
    """All tiles anew from other leaves."""
    shutil.rmtree(root / "tile")
    store = FolderStore(root)

    def put(tile: Tile, content: bytearray) -> None:
        store.write(tile.path, content)

    edge = Edge.new()
    edge.grow(leaves, put)
    edge.write_partials(0, put)
    return Checkpoint(NAME, len(leaves), edge.frontier.root())


def test_an_honest_log_holds(says: Says) -> None:
    assert "Everything holds" in says("verify-audit", code=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entries: [*entries[:44], leaf(9_999), *entries[45:]], "leaf 300 was edited"),
        (lambda entries: entries[:44] + entries[45:], "leaf 300 was dropped"),
        (
            lambda entries: [*entries[:44], entries[45], entries[44], *entries[46:]],
            "leaf 300 was moved, and another entry of this log stands here",
        ),
        (
            lambda entries: [*entries[:44], leaf(9_999), *entries[44:-1]],
            "leaf 300 has an entry before it that was put in",
        ),
    ],
    ids=["edited", "dropped", "reordered", "put in"],
)
def test_an_entry(says: Says, root: Path, change: Callable[[list[bytes]], list[bytes]], words: str) -> None:
    edit(root, change)
    said = says("verify-audit")
    assert f"entry: {BUNDLE}: {words}" in said
    assert "the first leaf at fault is #300." in said
    assert re.search(rf"entry #300 is not what was logged there|{BUNDLE}: holds 255 entries", says("receipt", "#300"))


def test_the_last_entries_of_a_bundle_dropped(says: Says, root: Path) -> None:
    edit(root, lambda entries: entries[:44])
    said = says("verify-audit")
    assert "ends before leaf 300, which was logged" in said
    assert "the first leaf at fault is #300." in said


def test_a_truncated_log(says: Says, root: Path) -> None:
    cut = earlier(root, 300)
    rebuild(root, [leaf(number) for number in range(300)])
    (root / "checkpoint").write_bytes(cut)
    said = says("verify-audit")
    assert "truncated: checkpoints: covers 600 leaves, and the log shows 300: cut short, or replayed" in said
    assert "the first leaf at fault is #300." in said


def test_a_log_truncated_with_its_history(says: Says, root: Path) -> None:
    """Whoever saw a later checkpoint knows; whoever did not, that the history is not there."""
    shutil.copy(root / "checkpoint", root.parent / "kept")
    cut = earlier(root, 300)
    rebuild(root, [leaf(number) for number in range(300)])
    (root / "checkpoint").write_bytes(cut)
    shutil.rmtree(root / "checkpoints")
    assert "history not available" in says("verify-audit", code=ExitCode.NO_HISTORY)
    said = says("verify-audit", "--witness", "kept")
    assert "truncated: a checkpoint kept elsewhere: covers 600 leaves" in said
    assert "the first leaf at fault is #300." in said


def test_a_forged_checkpoint(says: Says, root: Path) -> None:
    note = (root / "checkpoint").read_bytes()
    (root / "checkpoint").write_bytes(note.replace(b"\n600\n", b"\n599\n"))
    for command in ("verify-audit", "list"):
        assert "forged or altered" in says(command)


def test_a_wrong_key(says: Says, root: Path, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other-key", NAME)
    (root / "checkpoint").write_bytes(read_checkpoint((root / "checkpoint").read_bytes()).sign([other]))
    for command in ("verify-audit", "list"):
        assert "wrong key, or a forgery" in says(command)


def test_an_older_checkpoint_replayed(says: Says, root: Path) -> None:
    says("list", "incidents", code=0)  # this user has seen the newest
    (root / "checkpoint").write_bytes(earlier(root, 300))
    said = says("verify-audit")
    assert "covers 600 leaves, and the log shows 300: cut short, or replayed" in said
    assert "the first leaf at fault is #300." in said
    assert "older checkpoint replayed" in says("list", "incidents")


def test_a_split_view(says: Says, root: Path) -> None:
    says("list", "incidents", code=0)
    shown = Checkpoint(NAME, 600, EMPTY_ROOT).sign([key_of(root)])
    (root.parent / "shown-to-others").write_bytes(shown)
    said = says("verify-audit", "--witness", "shown-to-others")
    assert "split view: " in said
    assert "two checkpoints of 600 leaves" in said
    (root / "checkpoint").write_bytes(shown)
    assert "split view" in says("list", "incidents")


def test_a_history_that_was_rewritten_and_signed_anew(says: Says, root: Path) -> None:
    says("list", "incidents", code=0)
    leaves = [leaf(number) for number in range(700)]
    leaves[150] = leaf(9_999)
    (root / "checkpoint").write_bytes(rebuild(root, leaves).sign([key_of(root)]))
    said = says("verify-audit")
    assert "history: checkpoints: the checkpoint of 300 leaves is not of these entries" in said
    assert "the first leaf at fault is #100." in said, "the one of 100 leaves holds"
    assert "history was rewritten" in says("list", "incidents")


def test_a_duplicate_index(says: Says, root: Path) -> None:
    """A bundle is shown whole to one, and another one of an earlier width to others."""
    partial = root / "tile/entries/001.p/44"
    partial.parent.mkdir(exist_ok=True)
    partial.write_bytes(encode_entries([leaf(9_999 if n == 266 else n) for n in range(256, 300)]))
    said = says("verify-audit")
    assert "duplicate index: tile/entries/001.p/44: has another leaf 266" in said
    assert "the first leaf at fault is #266." in said


@pytest.mark.parametrize("text", [b'{"b":1,"a":2}', b'{"a":1,"a":2}', b'{"a":1.0}', b"not JSON"])
def test_json_that_is_not_canonical(says: Says, root: Path, text: bytes) -> None:
    with open_log(Place.of(str(root), root.parent)) as log:
        log.append([text])
    said = says("verify-audit")
    assert "not canonical: tile/entries/002" in said
    assert "the first leaf at fault is #600." in said


def test_a_proof_for_another_tree_size(says: Says, root: Path) -> None:
    says("export-proof", "#77", "--out", "proof.zip", code=0)
    (root / "checkpoint").rename(root.parent / "newest")
    (root / "checkpoint").write_bytes(earlier(root, 300))
    (root.parent / "log.keys/seen").unlink(missing_ok=True)
    says("export-proof", "#77", "--out", "of-300.zip", code=0)
    with zipfile.ZipFile("of-300.zip") as older, zipfile.ZipFile("proof.zip") as newer:
        proof = older.read("entry.tlog-proof").split(b"\n\n", 1)[0]
        note = newer.read("checkpoint")
        members = {name: newer.read(name) for name in newer.namelist()}
        infos = {info.filename: info for info in newer.infolist()}
    members["entry.tlog-proof"] = proof + b"\n\n" + note
    with zipfile.ZipFile("forged.zip", "w") as forged:
        for name, content in members.items():
            forged.writestr(infos[name], content)
    said = says("verify-proof", "forged.zip")
    assert re.search(r"inclusion fails .*another size", said), said


def test_a_proof_under_a_checkpoint_of_another_hand(says: Says, root: Path, tmp_path: Path) -> None:
    says("export-proof", "#77", "--out", "proof.zip", code=0)
    other = make_key(tmp_path / "other-key", NAME)
    Path("trust.txt").write_text(f"{other.verifier.vkey}\n")
    assert "wrong key, or a forgery" in says("verify-proof", "proof.zip", "--trust", "trust.txt")
