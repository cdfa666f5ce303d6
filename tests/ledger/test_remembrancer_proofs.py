"""``remembrancer sign``, ``timestamp`` and what proves beyond the log's key, with real gpg and a real authority."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from authority import Authority, needs_openssl, serving
from gpg_home import GpgHome, gpg_home, needs_gpg
from typer.testing import CliRunner

from amaru.cli.remembrancer import app
from amaru.cli.remembrancer_session import ExitCode
from amaru.files import whole

pytestmark = [needs_gpg, needs_openssl, pytest.mark.slow]

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    with serving(Authority(tmp_path_factory.mktemp("tsa"))) as authority:
        yield authority


@pytest.fixture(scope="module")
def home() -> Iterator[GpgHome]:
    with gpg_home() as made:
        made.make_key("Maria <maria@example.org>")
        yield made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: GpgHome) -> Run:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("AMARU_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GNUPGHOME", str(home.folder))
    monkeypatch.setenv("COLUMNS", "300")

    def run_one(*arguments: str, code: int = 0) -> Any:
        done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if "--json" in arguments else done.stdout + done.stderr

    Path("app.tar").write_bytes(b"the application")
    run_one("record", "deploy", "--component", "gateway", "--version", "1.4.2", "--evidence", "app.tar")
    return run_one


def stamp_all(run: Run, tsa: Authority) -> None:
    """Everything that others can vouch for: the file and the checkpoint, by gpg and by the authority."""
    run("sign", "app.tar")
    run("timestamp", "app.tar", "--tsa", tsa.url, "--roots", str(tsa.roots))
    run("sign")
    run("timestamp", "--tsa", tsa.url)  # the roots are known by now


def verdicts(report: dict[str, Any]) -> dict[str, str]:
    return {one["piece"]: one["verdict"] for one in report["receipts"][0]["findings"]}


def test_signatures_and_stamps_are_kept_and_verified_with_all_the_rest(run: Run, tsa: Authority) -> None:
    stamp_all(run, tsa)
    report = run("verify-full", "app.tar", "--strict", "--json")
    assert (report["ok"], report["trusted"]) == (True, True)
    assert {
        "entry", "inclusion", "checkpoint", "artifact", "attestation.json",
        "signatures/checkpoint.1.asc", "signatures/artifact.2.asc",
        "timestamps/checkpoint.1.tsr", "timestamps/artifact.2.tsr",
    } == verdicts(report).keys()  # fmt: skip
    assert set(verdicts(report).values()) == {"holds"}
    assert "All of it holds, by what you trust." in run("verify-full", "app.tar")
    # Without the file at hand its signature cannot be checked, and that is said.
    assert verdicts(run("verify-full", "--json"))["signatures/artifact.2.asc"] == "unchecked"
    run("verify-full", "0", "--strict", code=ExitCode.UNPROVEN)


def test_what_lies_beside_the_file_verifies_with_its_own_tools(run: Run, tsa: Authority, home: GpgHome) -> None:
    stamp_all(run, tsa)
    assert home.accepts(Path("app.tar").read_bytes(), Path("app.tar.asc").read_bytes())
    openssl = ["openssl", "ts", "-verify", "-data", "app.tar", "-in", "app.tar.tsr", "-CAfile", str(tsa.roots)]
    subprocess.run(openssl, check=True, capture_output=True, timeout=300)


def test_another_signature_beside_the_file_is_left_alone(run: Run) -> None:
    Path("app.tar.asc").write_text("somebody else's")
    said = run("sign", "app.tar")
    assert "app.tar.asc is there already and was left as it is; the ledger has the new one" in said
    assert Path("app.tar.asc").read_text() == "somebody else's"
    assert verdicts(run("verify-full", "app.tar", "--json"))["signatures/artifact.1.asc"] == "holds"


def test_where_nothing_can_be_written_beside_the_file_that_is_said_and_the_ledger_has_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(whole, "make_whole", full)
        said = run("sign", "app.tar", code=ExitCode.FAILED)
    assert "app.tar.asc: cannot be written: No space left on device; make room there, and try again" in said
    assert "The ledger has it all the same" in said
    assert verdicts(run("verify-full", "app.tar", "--json"))["signatures/artifact.1.asc"] == "holds"


def test_a_file_that_is_in_no_receipt_can_be_signed_and_that_is_said(run: Run) -> None:
    Path("notes.txt").write_text("not recorded")
    assert "No receipt names this file yet" in run("sign", "notes.txt")
    run("verify-full", "notes.txt", code=ExitCode.NOT_FOUND)


def test_a_file_that_changed_is_caught(run: Run, tsa: Authority) -> None:
    stamp_all(run, tsa)
    Path("app.tar").write_bytes(b"the application, improved")
    assert "never recorded, or changed" in run("verify-full", "app.tar", code=ExitCode.NOT_FOUND)


def test_a_swapped_signature_is_caught(run: Run, tsa: Authority) -> None:
    """The one of another file, put in the place of this file's."""
    stamp_all(run, tsa)
    Path("other").write_text("other")
    run("sign", "other")
    run("timestamp", "other", "--tsa", tsa.url)
    for suffix in (".asc", ".tsr"):
        pieces = sorted(Path("amaru-data/ledger/proofs/artifacts").rglob(f"1-*{suffix}"))
        mine, others = sorted(pieces, key=lambda path: path.read_bytes() != Path(f"app.tar{suffix}").read_bytes())
        shutil.copy(others, mine)
    report = run("verify-full", "app.tar", "--json", code=ExitCode.UNPROVEN)
    assert {piece for piece, verdict in verdicts(report).items() if verdict == "fails"} >= {
        "signatures/artifact.2.asc",
        "timestamps/artifact.2.tsr",
    }
    said = " ".join(run("verify-full", "app.tar", code=ExitCode.UNPROVEN).split())
    assert "the time-stamp is for other data, so it was swapped or the data was changed" in said
    assert "Something does not hold." in said


def test_a_stranger_checks_a_bundle_without_the_ledger(
    run: Run, tsa: Authority, home: GpgHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp_all(run, tsa)
    for note in ("later", "and later"):
        run("record", "discovery", "--component", "gateway", "--note", note)
    made = run("export-proof", "0", "--out", "proof.zip", "--json")
    assert (made["index"], made["signatures"], made["timestamps"]) == (0, 2, 2)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("proof.zip", "app.tar"):
        shutil.copy(name, elsewhere)
    trust = Path("amaru-data/ledger.keys/trust").read_text()
    shutil.rmtree("amaru-data")
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("GNUPGHOME")

    alone = run("verify-proof", "proof.zip", "--json")
    assert (alone["ok"], alone["trusted"]) == (True, False)
    assert alone["receipts"][0]["size"] == 1  # under the checkpoint that was signed and stamped, not the newest
    Path("trust.txt").write_text(trust)
    sure = run("verify-proof", "proof.zip", "--trust", "trust.txt", "--artifact", "app.tar", "--strict", "--json")
    assert (sure["ok"], sure["trusted"]) == (True, True)
    Path("app.tar").write_bytes(b"another")
    run("verify-proof", "proof.zip", "--artifact", "app.tar", code=ExitCode.UNPROVEN)

    with zipfile.ZipFile("proof.zip") as bundle:
        bundle.extractall("pieces")
    for line in trust.splitlines():
        if "+" in line and not line.startswith("-"):
            Path("trust.txt").write_text(line.replace(line[-8:], "AAAAAAAA") + "\n")
            break
    assert run("verify-proof", "proof.zip", "--trust", "trust.txt", code=ExitCode.FAILED)


def test_a_bundle_that_was_tampered_with_does_not_hold(run: Run, tsa: Authority) -> None:
    run("export-proof", "0", "--out", "proof.zip")
    with zipfile.ZipFile("proof.zip") as bundle:
        members = {name: bundle.read(name) for name in bundle.namelist()}
    with zipfile.ZipFile("forged.zip", "w", zipfile.ZIP_STORED) as forged:
        for name, content in members.items():
            forged.writestr(name, content.replace(b"1.4.2", b"1.4.3"))
    run("verify-proof", "forged.zip", code=ExitCode.UNPROVEN)
    Path("none.zip").write_bytes(b"no zip")
    run("verify-proof", "none.zip", code=ExitCode.UNPROVEN)


def test_a_bundle_that_was_stripped_of_what_others_vouched_for_does_not_pass_where_that_is_required(
    run: Run, tsa: Authority
) -> None:
    run("export-proof", "0", "--out", "bare.zip")  # as one of which signature and stamp were taken out
    stamp_all(run, tsa)
    run("export-proof", "0", "--out", "proof.zip")
    trust = ["--trust", "amaru-data/ledger.keys/trust"]
    demanded = [*trust, "--artifact", "app.tar", "--strict", "--require", "timestamp,signature,attestation"]
    assert "All of it holds" in run("verify-proof", "proof.zip", *demanded)
    assert "required: no timestamp is there" in run("verify-proof", "bare.zip", *demanded, code=ExitCode.UNPROVEN)
    run("verify-proof", "bare.zip", *trust, "--strict")
    alone = run("verify-proof", "bare.zip", *trust, "--require", "signature", "--json", code=ExitCode.UNPROVEN)
    assert verdicts(alone)["signatures"] == "fails"
    run("verify-full", "app.tar", "--require", "timestamp, signature")
    assert "'seal' is none of" in run("verify-full", "--require", "seal", code=ExitCode.USAGE)


def test_an_authority_or_a_key_that_cannot_be_had_is_told_by_the_exit_code(
    run: Run, tsa: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = ["timestamp", "app.tar", "--tsa", "http://127.0.0.1:1/", "--roots", str(tsa.roots)]
    assert run(*dead, "--json", code=ExitCode.UNAVAILABLE)["error"]["kind"] == "unavailable"
    run("sign", "app.tar", "--key", "nobody@example.org", code=ExitCode.UNAVAILABLE)
    assert not Path("app.tar.asc").exists()
    assert not Path("app.tar.tsr").exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "gpg" in run("sign", "app.tar", code=ExitCode.UNAVAILABLE)
