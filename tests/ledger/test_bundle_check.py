"""Proof bundles checked without us: in a clean environment, by the script in them, by gpg and by openssl."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from authority import needs_openssl, openssl_accepts
from bundle_world import ARTIFACT, INDEX, ORIGIN, World, other_leaf
from gpg_home import needs_gpg

from amaru.ledger.attestation import keyid_of, sign_envelope
from amaru.ledger.bundle_check import root_of
from amaru.ledger.canonical import canonical
from amaru.ledger.log import Log
from amaru.ledger.merkle import leaf_hash
from amaru.ledger.notes import NoteSigner

pytestmark = [needs_gpg, needs_openssl]


def test_it_verifies_in_a_clean_environment(made: World, bundle: bytes, tmp_path: Path) -> None:
    """Another process, in an empty folder, without amaru's data, a home or the network's settings."""
    (tmp_path / "receipt.proof").write_bytes(bundle)
    (tmp_path / "trust.txt").write_text(made.trust)
    code = (
        "import sys; from datetime import UTC, datetime; from pathlib import Path\n"
        "from amaru.ledger.bundle import verify_proof; from amaru.ledger.trust import read_trust\n"
        "bundle, trust = Path('receipt.proof').read_bytes(), read_trust(Path('trust.txt'))\n"
        "report = verify_proof(bundle, trust, now=datetime.now(UTC))\n"
        "print(report.ok, report.trusted, sum(finding.trusted for finding in report.findings))"
    )
    clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "nowhere")}
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=300
    )
    assert (done.stdout, done.stderr) == ("True True 6\n", "")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["receipt.proof", "trust.txt"]


def test_the_readmes_commands_check_it_without_amaru(made: World, bundle: bytes, tmp_path: Path) -> None:
    zipfile.ZipFile(BytesIO(bundle)).extractall(tmp_path)
    (tmp_path / "ARTIFACT").write_bytes(ARTIFACT)
    text = (tmp_path / "README.txt").read_text("ascii")
    commands = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    tools = tmp_path / "tools"  # nothing but these can be called
    tools.mkdir()
    for tool in ("sh", "cat", "mkdir", "openssl", "gpg"):
        os.symlink(shutil.which(tool) or tool, tools / tool)
    os.symlink(sys._base_executable, tools / "python3")  # type: ignore[attr-defined]  # without our site-packages
    script = "\n".join(["set -e", *commands])
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env={"PATH": str(tools)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert not [file for file in (tmp_path / "gpg-home").iterdir() if file.is_socket()]  # no agent is left behind
    assert leaf_hash(made.entry).hex() in done.stdout
    assert f"entry.json is number {INDEX} of the 300 entries of {ORIGIN}" in done.stdout
    assert done.stdout.count("Signature Verified Successfully") == 2  # the checkpoint's, and the attestation's
    assert f"deployment:v1 of sha256:{hashlib.sha256(ARTIFACT).hexdigest()}" in done.stdout
    assert done.stderr.count("Good signature from") == 2
    assert done.stderr.count("Verification: OK") + done.stdout.count("Verification: OK") == 3
    assert '"predicateType":"urn:amaru:attestation:deployment:v1"' in done.stdout


def test_the_commands_of_the_explanation_do_too(made: World, bundle: bytes, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "ledger.md").read_text("utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if not line.startswith("remembrancer ")]
    assert len(commands) == 12
    (tmp_path / "proof.zip").write_bytes(bundle)
    (tmp_path / "image.tar").write_bytes(ARTIFACT)
    found = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-ec", "\n".join(commands)], cwd=tmp_path, capture_output=True, text=True, timeout=300, env=found
    )
    assert done.returncode == 0, done.stderr
    for said in (
        leaf_hash(made.entry).hex(),
        '"predicateType":"urn:amaru:attestation:deployment:v1"',
        f"= {hashlib.sha256(ARTIFACT).hexdigest()}",
    ):
        assert said in done.stdout
    assert done.stdout.count("Signature Verified Successfully") == 2
    assert "Good signature from" in done.stderr
    assert "Verification: OK" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("entry.json", b"1.4.2", b"1.4.3", "does not stand in that tree"),
        ("entry.tlog-proof", b"index 137", b"index 136", "does not stand in that tree"),
        ("entry.tlog-proof", b"index 137", b"index 300", "no such entry"),
        ("checkpoint", b"\n300\n", b"\n301\n", "not the one of the proof"),
        ("attestation.json", b"keyid", b"keyed", "not the envelope that the receipt holds"),
        ("log-keys.txt", b"gateway", b"getaway", "the checkpoint is signed by no key of log-keys.txt"),
    ],
)
def test_the_script_in_it_names_what_was_changed(
    bundle: bytes, tmp_path: Path, file: str, old: bytes, new: bytes, words: str
) -> None:
    zipfile.ZipFile(BytesIO(bundle)).extractall(tmp_path)
    assert old in (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes().replace(old, new))
    done = checked(tmp_path)
    assert done.returncode == 1
    assert words in done.stderr


def checked(folder: Path) -> subprocess.CompletedProcess[str]:
    """What the script in a bundle says, with nothing but Python's own library."""
    command = [sys.executable, "-I", "-S", "check.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def attested(folder: Path, receipt: dict[str, object]) -> bool:
    """Whether openssl finds that the log's key signed the attestation in a receipt, as check.py readies it."""
    (folder / "entry.json").write_bytes(canonical(receipt))
    (folder / "attestation.json").write_bytes(canonical(receipt["envelope"]))
    code = "import sys; sys.path.insert(0, str()); import check, pathlib; check.check_attestation(pathlib.Path())"
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        assert done.stderr.startswith("FAILS: "), done.stderr
        return False
    verify = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "attestation.1.pem", "-rawin"]
    verify += ["-in", "attestation.signed", "-sigfile", "attestation.1.sig"]
    return subprocess.run(verify, cwd=folder, capture_output=True, timeout=300).returncode == 0


def test_an_attestation_that_the_log_did_not_sign_is_refused_by_openssl_too(
    made: World, bundle: bytes, tmp_path: Path
) -> None:
    zipfile.ZipFile(BytesIO(bundle)).extractall(tmp_path)
    receipt = json.loads(made.entry)
    assert attested(tmp_path, receipt)
    envelope = receipt["envelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    other = NoteSigner(ORIGIN, bytes(32))
    claimed = {"keyid": keyid_of(made.signer.verifier)}
    by_another = sign_envelope(canonical(statement), [other])
    rewritten = base64.b64encode(canonical({**statement, "predicate": {}})).decode()
    assert not attested(tmp_path, {**receipt, "envelope": {**envelope, "payload": rewritten}})
    falsely = {**by_another, "signatures": [{**by_another["signatures"][0], **claimed}]}
    assert not attested(tmp_path, {**receipt, "envelope": falsely})
    assert not attested(tmp_path, {**receipt, "envelope": by_another})
    assert not attested(tmp_path, {**receipt, "digest": f"sha256:{'0' * 64}"})
    assert not attested(tmp_path, {**receipt, "envelope": {**envelope, "payloadType": "text/plain"}})


def test_the_script_agrees_with_the_algebra_for_every_entry_of_many_trees(tmp_path: Path, made: World) -> None:
    for size in (*range(1, 18), 31, 64, 65):
        with Log.open(str(tmp_path / str(size)), [made.signer]) as log:
            log.append([other_leaf(number) for number in range(size)])
            for index in range(size):
                assert root_of(other_leaf(index), index, size, list(log.inclusion(index).path)) == log.head.root


def test_the_script_finds_proofs_too_long_and_too_short(made: World) -> None:
    path = list(made.log.inclusion(INDEX).path)
    for wrong, words in ((path[:-1], "too short"), ([*path, path[0]], "too long")):
        with pytest.raises(SystemExit, match=words):
            root_of(made.entry, INDEX, 300, wrong)


def test_its_pieces_are_those_that_gpg_and_openssl_take(made: World, bundle: bytes, tmp_path: Path) -> None:
    archive = zipfile.ZipFile(BytesIO(bundle))
    checkpoint = archive.read("checkpoint")
    assert made.home.accepts(checkpoint, archive.read("signatures/checkpoint.1.asc"))
    assert not made.home.accepts(checkpoint + b"\n", archive.read("signatures/checkpoint.1.asc"))
    (tmp_path / "roots.pem").write_bytes(archive.read("certificates.pem"))
    for piece, data in (("checkpoint.1", checkpoint), ("entry.2", made.entry), ("artifact.3", ARTIFACT)):
        stamp = archive.read(f"timestamps/{piece}.tsr")
        assert openssl_accepts(stamp, data, tmp_path / "roots.pem", tmp_path)
        assert not openssl_accepts(stamp, data + b"\n", tmp_path / "roots.pem", tmp_path)
