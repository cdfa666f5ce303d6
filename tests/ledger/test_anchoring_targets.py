"""Targets as they are: a time-stamping authority over HTTP, gpg, a URL; and what a bundle holds of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from anchoring_world import NAME, START, AnchoringWorld
from authority import Authority, needs_openssl, openssl_accepts, serving
from gpg_home import GpgHome, gpg_home, needs_gpg
from log_samples import KEY
from pydantic import SecretStr

from amaru.ledger.anchoring_pace import TRIES, Cadence
from amaru.ledger.anchoring_targets import Ask, GpgFile, Posted, TimeStamping
from amaru.ledger.bundle import Verdict, export_proof, verify_proof
from amaru.ledger.checkpoint import read_checkpoint
from amaru.ledger.log import Log
from amaru.ledger.merkle import leaf_hash
from amaru.ledger.proofs import Proofs
from amaru.ledger.proving import contents_of
from amaru.ledger.receipts import Discovery, leaf_of, rfc3339
from amaru.ledger.remembrancer import Entry
from amaru.ledger.timestamps import read_roots
from amaru.ledger.troubles import AnchorError, Trouble
from amaru.ledger.trust import Trust
from amaru.ledger.view import LogView


def stamping(authority: Authority, limit_s: float = 10.0) -> TimeStamping:
    return TimeStamping(authority.url, read_roots(authority.roots), {}, None, limit_s)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    with serving(Authority(tmp_path_factory.mktemp("authority"))) as served:
        yield served


@pytest.fixture(scope="module")
def home() -> Iterator[GpgHome]:
    with gpg_home() as made:
        made.make_key("Anchor <anchor@example.org>")
        yield made


@contextmanager
def world_of(folder: Path, target: TimeStamping | GpgFile | Posted) -> Iterator[AnchoringWorld]:
    world = AnchoringWorld(folder, target=target, cadence=Cadence.of("fast", 90))
    try:
        yield world
    finally:
        world.states.close()


@needs_openssl
def test_what_is_stamped_lies_in_the_bundle_of_any_receipt_under_it(authority: Authority, tmp_path: Path) -> None:
    entry = leaf_of(Discovery(at=rfc3339(START), component="mesh", note="found"))
    with world_of(tmp_path, stamping(authority)) as world:
        with Log.open(str(world.root), [KEY]) as log:
            log.append([entry])
        world.run_until(START + 90)
        world.grow(3)
        world.run_until(START + 180)
        assert len(world.kept()) == 2
        view = LogView.at(str(world.root), [KEY.verifier])
        contents = contents_of(view, Entry(0, leaf_hash(entry), entry, None), Trust((KEY.verifier,)))
        assert [stamp.on for stamp in contents.timestamps] == ["checkpoint"]
        trust = Trust((KEY.verifier,), roots=read_roots(authority.roots))
        report = verify_proof(export_proof(contents), trust, now=datetime.now(UTC))
        assert report.ok
        assert report.checkpoint.size == 1  # the first one over it
        (stamp,) = [one for one in report.findings if one.piece.startswith("timestamps/")]
        assert (stamp.verdict, stamp.trusted) == (Verdict.HOLDS, True)
        note = Proofs(view.store).note_of(1)
        assert note is not None
        assert openssl_accepts(contents.timestamps[0].response, note, authority.roots, tmp_path)


@needs_openssl
@pytest.mark.parametrize(("answer", "trouble"), [
    ((503, b"busy"), Trouble.NETWORK),
    ((401, b"who are you"), Trouble.AUTHENTICATION),
    ((404, b"not here"), Trouble.VALIDATION),
    ((200, b"\x30\x82garbage"), Trouble.VALIDATION),
    ((200, b""), Trouble.VALIDATION),
])  # fmt: skip
def test_an_authority_that_refuses_is_asked_again_in_its_time(
    authority: Authority, tmp_path: Path, answer: tuple[int, bytes], trouble: Trouble
) -> None:
    with world_of(tmp_path, stamping(authority)) as world:
        world.grow()
        authority.answer = lambda _: answer
        try:
            due = world.line.step()
        finally:
            authority.answer = None
        assert due == pytest.approx(START + world.cadence.backoff_s(1, trouble))
        assert world.kept() == []
        world.now = due
        world.line.step()
        assert len(world.kept()) == 1


@needs_openssl
def test_a_stamp_for_something_else_is_not_taken(authority: Authority, tmp_path: Path) -> None:
    with world_of(tmp_path, stamping(authority)) as world:
        world.grow()
        authority.answer = lambda _: (200, authority.stamp(b"something else"))
        try:
            for _ in range(TRIES):
                world.now = max(world.now, world.line.step())
        finally:
            authority.answer = None
        assert world.line.status == "failed"
        assert world.kept() == []


@needs_openssl
def test_a_slow_authority_is_left_after_the_limit(authority: Authority, tmp_path: Path) -> None:
    release = threading.Event()

    def slow(_: bytes) -> tuple[int, bytes]:
        release.wait(60)
        return 503, b""

    with world_of(tmp_path, stamping(authority, limit_s=0.2)) as world:
        world.grow()
        authority.answer = slow
        try:
            due = world.line.step()
        finally:
            authority.answer = None
            release.set()
        assert "no answer within 0.2 s" in world.line.problem
        assert due == pytest.approx(START + world.cadence.backoff_s(1, Trouble.NETWORK))


def test_an_authority_that_is_not_there_is_a_network_trouble(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as free:
        port = free.server_port
    with pytest.raises(AnchorError) as caught:
        Posted(f"http://127.0.0.1:{port}/", {}, None, 5.0).ask(Ask(NAME, int(START), b"note"))
    assert caught.value.trouble is Trouble.NETWORK


@needs_gpg
def test_a_folder_gets_each_checkpoint_with_a_signature_that_gpg_accepts(home: GpgHome, tmp_path: Path) -> None:
    target = GpgFile(tmp_path / "vault", None, home.folder, 30.0)
    with world_of(tmp_path, target) as world:
        for n in range(2):
            world.grow()
            world.run_until(START + 90 * (n + 1))
        files = sorted((tmp_path / "vault" / "gateway" / "fast").iterdir())
        assert [file.suffix for file in files] == [".checkpoint", ".asc"] * 2
        for checkpoint, signature in (files[:2], files[2:]):
            assert home.accepts(checkpoint.read_bytes(), signature.read_bytes())
        assert read_checkpoint(files[2].read_bytes()).size == 2
        pieces = Proofs(LogView.at(str(world.root), [KEY.verifier]).store).of_checkpoint(files[2].read_bytes())
        assert [signature for signature, _ in pieces.signatures] == [files[3].read_bytes()]
        assert b"BEGIN PGP PUBLIC KEY" in pieces.signatures[0][1]


@needs_gpg
def test_a_key_that_gpg_does_not_have_is_an_authentication_trouble(home: GpgHome, tmp_path: Path) -> None:
    with world_of(tmp_path, GpgFile(tmp_path / "vault", "nobody@example.org", home.folder, 30.0)) as world:
        world.grow()
        assert world.line.step() == pytest.approx(START + world.cadence.backoff_s(1, Trouble.AUTHENTICATION))
        assert "nobody@example.org" in world.line.problem


@needs_gpg
def test_a_folder_that_is_away_gets_the_same_signature_when_it_is_back(home: GpgHome, tmp_path: Path) -> None:
    (tmp_path / "vault").write_text("not mounted")
    with world_of(tmp_path, GpgFile(tmp_path / "vault", None, home.folder, 30.0)) as world:
        world.grow()
        due = world.line.step()
        pending = world.line.state.pending
        assert pending is not None
        assert pending.token is not None
        (tmp_path / "vault").unlink()
        world.restarted()
        world.now = due
        world.line.step()
        (signature,) = (tmp_path / "vault").rglob("*.asc")
        assert signature.read_bytes() == pending.token.content


class Taker:
    """A server that takes checkpoints, and remembers what came."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.came: list[tuple[dict[str, str], bytes]] = []
        taker = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                taker.came.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(taker.statuses.pop(0) if taker.statuses else 201)
                self.send_header("content-length", "4")
                self.end_headers()
                self.wfile.write(b"done")

            def log_message(self, format: str, *args: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/checkpoints"


@pytest.fixture
def taker() -> Iterator[Taker]:
    made = Taker()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def test_a_url_gets_the_signed_checkpoint_with_one_key_for_all_tries(taker: Taker, tmp_path: Path) -> None:
    target = Posted(taker.url, {"authorization": SecretStr("Bearer hush")}, None, 10.0)
    with world_of(tmp_path, target) as world:
        world.grow()
        taker.statuses = [500, 429]
        world.run_until(START + 90)
        world.grow()
        world.run_until(START + 180)
        assert len(taker.came) == 4
        notes = [body for _, body in taker.came]
        assert [read_checkpoint(note).size for note in notes] == [1, 1, 1, 2]
        assert notes[-1] == (world.root / "checkpoint").read_bytes()
        keys = [headers["idempotency-key"] for headers, _ in taker.came]
        assert len(set(keys[:3])) == 1
        assert keys[3] != keys[0]
        assert taker.came[0][0]["authorization"] == "Bearer hush"
        assert taker.came[0][0]["content-type"] == "text/plain; charset=utf-8"
        assert world.kept() == []  # what a URL answers is no proof


@pytest.mark.parametrize("status", [403, 405])
def test_a_url_that_refuses_for_ever_has_failed_and_is_asked_seven_times_a_slot(
    taker: Taker, tmp_path: Path, status: int
) -> None:
    with world_of(tmp_path, Posted(taker.url, {}, None, 10.0)) as world:
        world.grow()
        taker.statuses = [status] * 3 * TRIES
        for slot in (1, 2, 3):
            world.run_until(START + 90 * slot - 1)
            assert len(taker.came) == slot * TRIES
            assert (world.line.status, world.figures.backoff) == ("failed", TRIES)
            assert f"answered with status {status}" in world.line.problem
            assert world.line.step() == START + 90 * slot
        statuses = []
        while not statuses or statuses[-1] != "anchored":
            world.now = world.line.step()
            statuses.append(world.line.status)
        assert set(statuses[:-1]) <= {"failed"}  # not taken for well before it is
        assert world.line.problem == ""
        assert len({headers["idempotency-key"] for headers, _ in taker.came}) == 4  # each slot is an anchor of its own


def test_no_secret_is_shown(taker: Taker, tmp_path: Path) -> None:
    target = Posted(taker.url, {"authorization": SecretStr("Bearer hush")}, None, 10.0)
    taker.statuses = [403]
    with world_of(tmp_path, target) as world:
        world.grow()
        world.line.step()
        assert "status 403" in world.line.problem
        assert "hush" not in world.line.problem + repr(target) + repr(world.line.state)


def test_each_anchor_has_a_key_of_its_own() -> None:
    asks = [
        Ask(NAME, 90, b"note"),
        Ask(NAME, 180, b"note"),
        Ask(NAME, 90, b"another note"),
        Ask(NAME._replace(cadence="cold"), 90, b"note"),
        Ask(NAME._replace(namespace="gatewayfast", cadence=""), 90, b"note"),
    ]
    assert len({ask.key for ask in asks}) == len(asks)
