"""``remembrancer`` as its users meet it: what each command does, says and exits with."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from amaru.cli.main import build
from amaru.cli.remembrancer import app
from amaru.cli.remembrancer_session import ExitCode, data_folder
from amaru.errors import LedgerError
from amaru.ledger.checkpoint import Checkpoint, read_checkpoint
from amaru.ledger.keys import load_signers
from amaru.ledger.log import Log
from amaru.ledger.notes import NoteSigner, NoteVerifier
from amaru.ledger.place import Place, open_log
from amaru.ledger.receipts import PLURALS, Decision, Incident, Outcome, Served, leaf_of, rfc3339

DOCS = Path(__file__).parents[2] / "docs" / "guides" / "remembrancer.md"
DIGEST = "sha256:" + "ab" * 32

Run = Callable[..., Any]


class Said:
    """What a command printed: ``out`` and ``err``; ``document`` is its JSON."""

    def __init__(self, out: str, err: str) -> None:
        self.out, self.err = out, err

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in an empty folder, and expects its exit status."""
    monkeypatch.chdir(tmp_path)
    for name in ("AMARU_LEDGER", "AMARU_LEDGER_INDEX", "AMARU_CONFIG", "AMARU_STORAGE__PATH", "AMARU_TSA_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USER", "maria")
    monkeypatch.setenv("COLUMNS", "200")

    def run_one(*arguments: str, code: int = 0) -> Said:
        done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert done.exit_code == code, done.output
        return Said(done.stdout, done.stderr)

    return run_one


def id_in(said: Said) -> str:
    found = re.search(r"[0-9a-f]{64}", said.out)
    assert found, said.out
    return found[0]


def test_the_first_record_makes_the_log_and_tells_its_public_key(run: Run) -> None:
    said = run("record", "discovery", "--component", "gateway", "--note", "It works.")
    vkey = next(line.strip() for line in said.out.splitlines() if re.fullmatch(r"  \S+\+[0-9a-f]{8}\+\S+", line))
    assert NoteVerifier.of(vkey).vkey in Path("amaru-data/ledger/vkey").read_text()
    assert "Recorded discovery gateway — It works." in said.out
    assert "#0 of a log of 1" in said.out

    again = run("record", "discovery", "--component", "gateway", "--json").document
    assert again["key_made"] is None
    assert again["index"] == 1
    assert again["receipt"]["by"] == "maria"


@pytest.mark.parametrize("kind", ["deploy", "training", "decision", "incident", "discovery", "memory"])
def test_each_kind_is_recorded_listed_found_and_shown(run: Run, kind: str) -> None:
    Path("file.bin").write_bytes(kind.encode())
    options = ["--component", "psi-field", "--version", "v7", "--evidence", "file.bin", "--note", "Größe egal"]
    id = id_in(run("record", kind, *options))
    assert [one["id"] for one in run("list", PLURALS[kind], "--json").document["receipts"]] == [id]
    assert id[:12] in run("list", PLURALS[kind]).out
    assert id[:12] in run("query", f"component:psi-field type:{kind} GROSSE").out
    shown = run("receipt", id[:8])
    assert "Größe egal" in shown.out
    assert "holds: in the tree of 1 receipts" in shown.out
    assert run("receipt", "0", "--json").document["proof"]["proved"] is True
    assert "file.bin is known" in run("verify", "file.bin").out


def test_a_file_that_changed_is_not_known_and_its_namesake_is_named(run: Run) -> None:
    Path("app.tar").write_bytes(b"one")
    id = id_in(run("record", "deploy", "--component", "gateway", "--evidence", "app.tar"))
    Path("app.tar").write_bytes(b"two")
    said = run("verify", "app.tar", code=ExitCode.NOT_FOUND)
    assert "A file of this name was recorded with other content" in said.out
    assert id[:12] in said.out
    document = run("verify", "app.tar", "--json", code=ExitCode.NOT_FOUND).document
    assert (document["known"], len(document["namesakes"])) == (False, 1)


def test_a_digest_can_be_verified_without_the_file(run: Run) -> None:
    run("record", "deploy", "--component", "gateway", "--digest", DIGEST)
    assert run("verify", DIGEST, "--json").document["known"] is True
    run("verify", "sha256:" + "cd" * 32, code=ExitCode.NOT_FOUND)
    run("verify", "sha256:abc", code=ExitCode.USAGE)
    run("verify", "missing.tar", code=ExitCode.FAILED)


def test_architecture_decisions_are_files_and_receipts(run: Run) -> None:
    said = run("adr", "create", "Store the log as tiles", "--reason", "Any server can serve it.")
    path = Path("docs/adr/0001-store-the-log-as-tiles.md")
    assert f"Wrote {path}" in said.out
    assert "Any server can serve it." in path.read_text()
    path.write_text(path.read_text().replace("Status: proposed", "Status: accepted"))
    run("record", "adr", "--evidence", str(path))
    run("adr", "create", "Another one")
    titles = [
        (one["receipt"]["ref"], one["receipt"]["status"]) for one in run("list", "adrs", "--json").document["receipts"]
    ]
    assert titles == [("ADR-0002", "proposed"), ("ADR-0001", "accepted"), ("ADR-0001", "proposed")]
    # The first text was replaced, the second is what the file holds.
    assert [one["index"] for one in run("verify", str(path), "--json").document["receipts"]] == [1]


def test_an_adr_that_cannot_be_recorded_leaves_no_file(run: Run) -> None:
    run("adr", "create", "A title", "--component", "two words", code=ExitCode.FAILED)
    assert not Path("docs").exists()


def test_a_timeline_counts_what_is_too_much_to_show(run: Run) -> None:
    run("record", "incident", "--component", "north", "--severity", "major", "--note", "answers nonsense")
    run("record", "decision", "--component", "board", "--note", "We stay.")  # by people: said, not counted
    with open_log(place_here()) as log:  # as the gateway logs a request
        now = rfc3339(time.time())
        routed = Decision(at=now, component="ai-mesh", ref="d-1", resource="llama", tenant="team", kind="chat")
        log.append([leaf_of(one) for one in (routed, Outcome(at=now, component="ai-mesh", outcome=Served(ok=True)))])
    said = run("timeline", "--since", "1h")
    assert "incident     north major — answers nonsense" in said.out
    assert "We stay." in said.out
    assert "ai-mesh" not in said.out
    assert "And of requests 1 decision, 1 outcome: --all shows them." in said.out
    assert "ai-mesh llama" in run("timeline", "--since", "1h", "--all").out
    document = run("timeline", "--since", "1h", "--json").document
    assert document["counted"] == {"decision": 1, "outcome": 1}
    assert [one["receipt"]["type"] for one in document["receipts"]] == ["decision", "incident"]


def test_pages_go_on_where_the_last_one_ended(run: Run) -> None:
    run("init")
    at = rfc3339(1_790_000_000.0)
    with open_log(place_here()) as log:
        log.append([leaf_of(Incident(at=at, component="c", note=f"n{n}")) for n in range(25)])
    seen: list[int] = []
    options: list[str] = []
    while True:
        page = run("query", "component:c", "--limit", "10", "--json", *options).document
        seen += [one["index"] for one in page["receipts"]]
        if not page["more"]:
            break
        options = ["--before", str(page["before"])]
    assert seen == list(range(24, -1, -1))
    assert "There are more" in run("list", "incidents", "--limit", "5").out


def place_here() -> Place:
    return Place.of("amaru-data/ledger", Path("amaru-data"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["list"], ExitCode.FAILED, "there is no ledger yet"),
        (["record", "deploy", "--component", "x"], ExitCode.FAILED, "needs what was deployed"),
        (["record", "incident", "--component", "a b"], ExitCode.FAILED, "its component must be 1 to 128 characters"),
        (["record", "deploy", "--component", "x", "--digest", "md5:1"], ExitCode.FAILED, "sha256: and 64"),
        (["record", "discovery", "--component", "x", "--evidence", "none"], ExitCode.FAILED, "none: cannot be read"),
        (["record", "adr", "--component", "x", "--evidence", "none.md"], ExitCode.FAILED, "none.md: cannot be read"),
        (["record", "incident", "--component", "x", "--note", "y" * 4001], ExitCode.FAILED, "name that as evidence"),
        (["adr", "create", " "], ExitCode.USAGE, "say what is decided"),
        (["verify-proof", "none.zip"], ExitCode.FAILED, "none.zip: cannot be read"),
        (["init", "--name", "two words"], ExitCode.FAILED, "cannot name a key"),
        (["list", "--trust", "none"], ExitCode.FAILED, "none: cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_on_stderr_or_as_json(
    run: Run, arguments: list[str], code: ExitCode, said: str
) -> None:
    assert said in run(*arguments, code=code).err
    error = run(*arguments, "--json", code=code).document["error"]
    assert said in error["message"]
    assert (error["exit"], error["kind"]) == (code, code.name.lower())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["receipt", "#9"], ExitCode.NOT_FOUND, "its last is #0"),
        (["receipt", "ffffffffff"], ExitCode.NOT_FOUND, "no receipt in this log"),
        (["receipt", "xyz"], ExitCode.NOT_FOUND, "names no receipt"),
        (["query", "*"], ExitCode.USAGE, "no word to look for"),
        (["query", "since:soon"], ExitCode.USAGE, "30d, 12h"),
        (["list", "nonsense"], ExitCode.USAGE, "deployments"),
        (["timeline", "--since", "yesterday"], ExitCode.USAGE, "30d, 12h"),
        (["timestamp"], ExitCode.USAGE, "AMARU_TSA_URL"),
        (["timestamp", "--tsa", "http://127.0.0.1:1/"], ExitCode.USAGE, "AMARU_TSA_ROOTS"),
        (["keys", "retire", "zz"], ExitCode.USAGE, "`keys` shows them"),
        (["keys", "retire", "00000000"], ExitCode.FAILED, "no key"),
        (
            ["verify-full", "none.tar"],
            ExitCode.NOT_FOUND,
            "there is no file none.tar, and as a receipt: 'none.tar' names",
        ),
        (["verify-proof", "amaru-data/ledger/vkey"], ExitCode.UNPROVEN, "amaru-data/ledger/vkey is no bundle"),
        (["verify-audit", "--witness", "amaru-data/ledger/vkey"], ExitCode.FAILED, "vkey: is no signed checkpoint"),
        (["prune", "--before", "1d"], ExitCode.FAILED, "256 at a time"),
        (["prune", "--before", "soon"], ExitCode.USAGE, "30d, 12h"),
        (["export-proof", "0", "--out", "no/such/folder/p.zip"], ExitCode.FAILED, "make the folder first"),
    ],
)
def test_what_is_asked_wrong_of_a_log_is_said_as_json_too(
    run: Run, arguments: list[str], code: ExitCode, said: str
) -> None:
    run("record", "discovery", "--component", "x")
    error = run(*arguments, "--json", code=code).document["error"]
    assert said in error["message"]
    assert error["exit"] == code
    plain = run(*arguments, code=code)
    assert plain.out == ""
    assert plain.err


def test_a_type_that_no_receipt_has_is_named_among_those_that_there_are(run: Run) -> None:
    run("record", "discovery", "--component", "x")
    assert "'banana' is no type of receipt, as deploy, training" in run("query", "type:banana").out
    assert run("query", "type:banana", "--json").document["receipts"] == []
    assert run("query", "type:memories").out == "No receipt says that.\n"


@pytest.mark.parametrize(
    "option",
    [["--note", "use sk-abcdefgh12345678"], ["--ref", "password=hunter2hunter2"], ["--version", "ghp_abcdefgh1234"]],
)
def test_what_looks_like_a_secret_is_not_logged_unless_asked_for(run: Run, option: list[str]) -> None:
    said = run("record", "incident", "--component", "north", *option, code=ExitCode.USAGE)
    assert option[1].split("=")[-1] not in said.out + said.err
    assert not Path("amaru-data").exists()
    run("record", "incident", "--component", "north", *option, "--as-is")


def test_a_note_cannot_play_with_the_terminal(run: Run) -> None:
    run("record", "incident", "--component", "north", "--note", "\x1b[2Jgone\r\x07\nnext line")
    for said in (run("list"), run("timeline"), run("receipt", "0")):
        assert not set("\x1b\r\x07") & set(said.out)
        assert "gone" in said.out
    assert run("receipt", "0", "--json").document["receipt"]["note"] == "\x1b[2Jgone\r\x07\nnext line"


def test_the_words_of_another_log_cannot_either(run: Run) -> None:
    run("record", "incident", "--component", "c", "--note", "n")
    place, name = place_here(), "evil\x9b31m\u202eoga"
    checkpoint = Path("amaru-data/ledger/checkpoint")
    signed = read_checkpoint(checkpoint.read_bytes())._replace(origin=name).sign(load_signers(place.signing_key))
    checkpoint.write_bytes(signed)
    place.seen.unlink(missing_ok=True)
    audit, shown = run("verify-audit", code=ExitCode.UNPROVEN), run("receipt", "0")
    place.seen.write_bytes(Checkpoint(name, 5, bytes(32)).sign([NoteSigner.generate(name)]))
    refused = run("receipt", "0", code=ExitCode.UNPROVEN)
    for said in (audit.out, shown.out, refused.err):
        assert "evil 31m oga" in said
        assert not set("\x9b\u202e") & set(said)


def test_what_rests_on_the_logs_own_key_alone_says_so(run: Run) -> None:
    run("record", "incident", "--component", "c", "--note", "n")
    said = run("verify-full", "--strict").out
    assert "All of it holds" in said
    assert "No signature and no time-stamp is there" in said


def test_another_writer_makes_it_wait_and_then_busy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("init")
    monkeypatch.setattr("amaru.ledger.place.BUSY_S", 0.0)
    monkeypatch.setattr("amaru.ledger.place.open_log.__kwdefaults__", {"wait_s": 0.0, "sleep": lambda _: None})
    with open_log(place_here()):
        said = run("record", "discovery", "--component", "x", code=ExitCode.BUSY)
        assert f"process {os.getpid()}" in said.err
        run("list")  # reading needs no lock
        assert run("keys", "rotate", "--json").document["restart"] is True


def test_keys_are_shown_rotated_and_retired(run: Run) -> None:
    run("init", "--name", "example.org/ledger")
    first = run("keys", "--json").document
    assert first["log"] == "example.org/ledger"
    assert [one["signs"] for one in first["keys"]] == [True]
    run("keys", "rotate")
    run("record", "discovery", "--component", "x")
    assert len(run("receipt", "0", "--json").document["proof"]["signed_by"]) == 2
    run("keys", "retire", first["keys"][0]["id"])
    assert [one["signs"] for one in run("keys", "--json").document["keys"]] == [False, True]
    assert "signed until it was retired" in run("keys").out
    run("record", "discovery", "--component", "y")
    assert run("verify-audit", "--json").document["ok"] is True


def test_pruning_asks_first_erases_and_says_so(run: Run) -> None:
    run("init")
    with open_log(place_here()) as log:
        log.append(
            [leaf_of(Incident(at=rfc3339(1_700_000_000.0 + n), component="c", note=f"n{n}")) for n in range(300)]
        )
    id = run("receipt", "7", "--json").document["id"]
    said = run("prune", "--before", "2026-01-01", code=ExitCode.FAILED)
    assert "#0 to #255 (256 receipts)" in said.err
    assert run("receipt", "7", "--json").document["pruned"] is False

    document = run("prune", "--before", "2026-01-01", "--note", "asked by the user", "--yes", "--json").document
    assert document == {"first": 0, "until": 256, "erased": 256, "receipt": 300}

    shown = run("receipt", id, code=ExitCode.PRUNED)
    assert "erased for good" in shown.out
    assert "holds: in the tree of 301 receipts" in shown.out
    assert "was pruned" in run("export-proof", id, "--out", "p.zip", code=ExitCode.PRUNED).err
    assert run("query", "n7", "--json").document["receipts"] == []
    assert "asked by the user" in run("list", "prunings").out
    assert "256 are pruned" in run("verify-audit").out


def test_the_audit_names_the_first_leaf_at_fault(run: Run) -> None:
    for note in ("first", "second", "third"):
        run("record", "incident", "--component", "c", "--note", note)
    assert "Everything holds" in run("verify-audit").out
    for bundle in Path("amaru-data/ledger/tile/entries/000.p").iterdir():
        bundle.write_bytes(bundle.read_bytes().replace(b"second", b"SECOND"))
    said = run("verify-audit", code=ExitCode.UNPROVEN)
    assert "the first leaf at fault is #1" in said.out
    document = run("verify-audit", "--json", code=ExitCode.UNPROVEN).document
    assert (document["ok"], document["first_leaf"], document["findings"][0]["fault"]) == (False, 1, "entry")
    assert "verify-audit" in run("receipt", "1", code=ExitCode.UNPROVEN).err


def test_the_audit_says_where_history_is_not_available(run: Run) -> None:
    for note in ("first", "second", "third"):
        run("record", "incident", "--component", "c", "--note", note)
    newest = max(Path("amaru-data/ledger/checkpoints/000.p").iterdir(), key=lambda path: int(path.name))
    newest.unlink()
    said = run("verify-audit", code=ExitCode.NO_HISTORY).out
    assert "history not available in part" in said
    assert "those after the one of 2 leaves, up to the log's own of 3 are not here" in said
    assert "Everything holds" not in said
    document = run("verify-audit", "--json", code=ExitCode.NO_HISTORY).document
    assert (document["ok"], document["findings"]) == (False, [])
    assert document["missing"] == ["those after the one of 2 leaves, up to the log's own of 3"]
    shutil.rmtree("amaru-data/ledger/checkpoints")
    assert "history not available: no earlier checkpoint is here. A copy" in run("verify-audit", code=8).out
    assert run("verify-audit", "--json", code=8).document["history"] == "not available"


def test_a_checkpoint_kept_elsewhere_catches_a_log_that_was_made_anew(run: Run) -> None:
    run("record", "incident", "--component", "c", "--note", "the truth")
    Path("kept").write_bytes(Path("amaru-data/ledger/checkpoint").read_bytes())
    shutil.rmtree("amaru-data/ledger")
    said = run("record", "incident", "--component", "c", "--note", "a lie", code=ExitCode.UNPROVEN).err
    assert "shows 0 leaves, and had 1" in said
    assert "needs a key of its own" in said
    place_here().seen.unlink()
    with open_log(place_here()) as log:
        log.append([leaf_of(Incident(at=rfc3339(0), component="c", note="a lie"))])
    place_here().seen.unlink()
    assert run("verify-audit", "--json").document["ok"] is True  # nobody who looks at it alone can tell
    found = run("verify-audit", "--witness", "kept", "--json", code=ExitCode.UNPROVEN).document
    assert found["findings"][0]["fault"] == "split view"
    run("verify-audit", "--witness", "none", code=ExitCode.FAILED)


def test_the_index_is_made_anew_on_demand_or_by_itself(run: Run) -> None:
    run("record", "discovery", "--component", "x", "--note", "needle")
    assert run("reindex", "--json").document["indexed"] == 1
    Path("amaru-data/ledger.index.db").unlink()
    assert "needle" in run("query", "needle").out
    Path("amaru-data/ledger.index.db").write_bytes(b"damaged " * 1000)
    said = run("query", "needle")
    assert "needle" in said.out
    assert "built anew" in said.err


def test_the_ledger_is_named_by_option_or_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    said = run("record", "discovery", "--component", "x", "--ledger", "elsewhere/log")
    assert re.search(r"remembrancer receipt [0-9a-f]{16} --ledger elsewhere/log$", said.out, re.M)
    assert Path("elsewhere/log/checkpoint").exists()
    assert Path("elsewhere/log.keys/signing-key").exists()
    monkeypatch.setenv("AMARU_LEDGER", "elsewhere/log")
    monkeypatch.setenv("AMARU_LEDGER_INDEX", "index-here.db")
    assert len(run("list", "--json").document["receipts"]) == 1
    assert "--ledger" not in run("record", "discovery", "--component", "x").out
    assert Path("index-here.db").exists()


@pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="fsspec reads HTTP by aiohttp")
def test_a_log_that_any_http_server_serves_can_be_read_and_proven(run: Run, tmp_path: Path) -> None:
    id = id_in(run("record", "incident", "--component", "x", "--note", "seen from afar"))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "amaru-data"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/ledger"
        shown = run("receipt", id, "--ledger", url, "--json").document
        assert shown["receipt"]["note"] == "seen from afar"
        assert "proves nothing about who made it" in shown["proof"]["trusted"]
        trusted = run("receipt", id, "--ledger", url, "--trust", "amaru-data/ledger/vkey", "--json").document
        assert trusted["proof"]["trusted"] == "what you gave"
        said = run("record", "incident", "--component", "x", "--ledger", url, code=ExitCode.FAILED)
        assert "only who holds it" in said.err
        server.shutdown()


class Endless(BaseHTTPRequestHandler):
    """Sends without end, whatever is asked for, for as long as somebody takes it."""

    sent = 0

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            while Endless.sent < 1 << 30:
                Endless.sent += self.wfile.write(bytes(1 << 20))

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_sends_without_end_is_not_heard_out(run: Run) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/ledger"
        assert "sends more than 16,777,472 bytes" in run("list", "--ledger", url, code=ExitCode.FAILED).err
        server.shutdown()
    assert Endless.sent < 1 << 28


def test_the_data_folder_is_the_configurations(tmp_path: Path) -> None:
    file = tmp_path / "amaru.yaml"
    config = {"AMARU_CONFIG": str(file)}
    assert data_folder(config) == tmp_path / "amaru-data"
    file.write_text("storage: {path: var/lib/decisions.db}\nproviders: {}\n")
    assert data_folder(config) == tmp_path / "var" / "lib"
    assert data_folder({**config, "AMARU_STORAGE__PATH": "/srv/amaru.db"}) == Path("/srv")
    for harmless in ("", "storage: nonsense", "- a list"):
        file.write_text(harmless)
        assert data_folder(config) == tmp_path / "amaru-data"
    file.write_text("{not yaml")
    with pytest.raises(LedgerError, match="--ledger"):
        data_folder(config)


def test_the_docs_hold_every_exit_code_and_command() -> None:
    text = DOCS.read_text()
    for code in ExitCode:
        assert f"| {int(code)} | {code.words} |" in text
    for command in ("init", "keys", "prune", "reindex", "verify-audit", "verify-proof", "export-proof", "verify-full"):
        assert f"`{command}" in text, command


def test_it_is_a_command_of_its_own_and_one_of_amaru() -> None:
    alone = subprocess.run(
        [sys.executable, "-c", "from amaru.cli.remembrancer import main; main()", "--version"],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert re.fullmatch(r"remembrancer, of amaru \S+\n", alone.stdout)
    within = CliRunner().invoke(build(), ["remembrancer", "--help"])
    assert "verify-audit" in within.output


def test_a_log_of_an_unknown_kind_is_listed_as_what_it_is(run: Run) -> None:
    run("init")
    with open_log(place_here()) as log:
        assert isinstance(log, Log)
        log.append([b'{"component":"x","type":"of-tomorrow","v":9}', b"\xff no json \x1b[2J"])
    listed = run("list")
    assert "of-tomorrow" in listed.out
    assert "\x1b" not in listed.out
    assert run("receipt", "0", "--json").document["receipt"]["v"] == 9
    assert "data" in run("receipt", "1", "--json").document
    assert run("query", "type:of-tomorrow", "--json").document["receipts"][0]["index"] == 0
