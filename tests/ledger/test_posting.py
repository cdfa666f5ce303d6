"""One POST: each status its own trouble, bounded in size and time, over verified TLS. Shown by asking an authority."""

from __future__ import annotations

import base64
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from authority import Authority, needs_openssl, openssl, serving

from amaru.http1.posting import MAX_ANSWER_BYTES
from amaru.ledger import timestamps
from amaru.ledger.timestamps import read_roots
from amaru.ledger.troubles import AnchorError, Trouble

pytestmark = needs_openssl

DATA = b"example.org/log\n3\nmZ0...\n"


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    with serving(Authority(tmp_path_factory.mktemp("tsa"))) as authority:
        yield authority


@pytest.fixture(autouse=True)
def _well_behaved(tsa: Authority) -> None:
    tsa.answer = None


def asking(tsa: Authority, **more: object) -> timestamps.Authority:
    return timestamps.Authority(tsa.url, read_roots(tsa.roots), **more)  # type: ignore[arg-type]  # what a test says


@pytest.mark.parametrize(
    ("status", "trouble"),
    [
        *((status, Trouble.AUTHENTICATION) for status in (401, 403, 407)),
        *((status, Trouble.VALIDATION) for status in (301, 400, 404)),
        *((status, Trouble.NETWORK) for status in (429, 500, 503)),
    ],
)
def test_each_status_is_its_own_trouble(tsa: Authority, status: int, trouble: Trouble) -> None:
    tsa.answer = lambda _: (status, b"the reason\x1b[31m\nin words")
    with pytest.raises(AnchorError, match=rf"status {status} \(the reason \[31m in words\)") as caught:
        asking(tsa).stamp(DATA)
    assert caught.value.trouble is trouble


@pytest.mark.parametrize("answer", [b"", b"<html>", b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", bytes(2000)])
def test_an_answer_that_is_no_stamp_is_refused(tsa: Authority, answer: bytes) -> None:
    tsa.answer = lambda _: (200, answer)
    with pytest.raises(AnchorError, match="no time-stamp response"):
        asking(tsa).stamp(DATA)


def test_answers_are_bounded_in_size_and_time(tsa: Authority) -> None:
    tsa.answer = lambda _: (200, bytes(MAX_ANSWER_BYTES + 1))
    with pytest.raises(AnchorError, match="an answer of more than 262,144 bytes"):
        asking(tsa).stamp(DATA)
    release = threading.Event()

    def never(_: bytes) -> tuple[int, bytes]:
        release.wait(60)
        return 200, b""

    tsa.answer = never
    try:
        with pytest.raises(AnchorError, match=r"gave no answer within 0.2 s") as caught:
            asking(tsa, limit_s=0.2).stamp(DATA)
    finally:
        release.set()
    assert caught.value.trouble is Trouble.NETWORK


def test_an_authority_that_is_not_there_is_a_trouble_of_the_network(tsa: Authority) -> None:
    with pytest.raises(AnchorError, match=r"127.0.0.1:9/ cannot be reached") as caught:
        timestamps.Authority("http://127.0.0.1:9/", read_roots(tsa.roots)).stamp(DATA)
    assert caught.value.trouble is Trouble.NETWORK


@pytest.mark.parametrize(
    "url", ["ftp://tsa.example.org/", "tsa.example.org", "http://", "http://[", "http://x:0/", "http://x y/", ""]
)
def test_what_is_no_url_is_refused(tsa: Authority, url: str) -> None:
    with pytest.raises(AnchorError, match="cannot be posted to; write it like https://"):
        timestamps.Authority(url, read_roots(tsa.roots))


@pytest.mark.parametrize("url", ["https://me:s3cret@tsa.example.org/", "ftp://me:s3cret@tsa.example.org/"])
def test_credentials_in_a_url_are_refused_and_not_repeated(tsa: Authority, url: str) -> None:
    with pytest.raises(AnchorError, match=r"the URL of tsa.example.org") as caught:
        timestamps.Authority(url, read_roots(tsa.roots))
    assert "s3cret" not in str(caught.value)


def test_headers_are_sent(tsa: Authority) -> None:
    secret = base64.b64encode(b"me:secret").decode()
    asking(tsa, headers={"authorization": f"Basic {secret}"}).stamp(DATA)
    assert tsa.headers[-1]["authorization"] == f"Basic {secret}"


@pytest.mark.parametrize("value", ["s3cret\n", "s3cret\x00", "s3crét"])
def test_a_header_that_cannot_be_sent_is_named_and_its_value_is_not_repeated(tsa: Authority, value: str) -> None:
    with pytest.raises(AnchorError, match="the header authorization holds a character") as caught:
        asking(tsa, headers={"authorization": value})
    assert "s3cr" not in str(caught.value)
    with pytest.raises(AnchorError, match="is no header's name"):
        asking(tsa, headers={"a b": "c"})


def test_https_is_verified(tsa: Authority, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    names = [
        "-subj",
        "/CN=127.0.0.1",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", 2, *names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(Authority(tmp_path / "tsa"), tls=context) as secure:
        assert secure.url.startswith("https://")
        with pytest.raises(AnchorError, match="certificate"):
            asking(secure).stamp(DATA)
        assert not secure.requests
        assert asking(secure, ca_file=certificate).stamp(DATA)
    with pytest.raises(AnchorError, match=r"serial: holds no PEM certificates"):
        asking(tsa, ca_file=tsa.folder / "serial")
    with pytest.raises(AnchorError, match=r"nothing.pem: cannot be read"):
        asking(tsa, ca_file=tmp_path / "nothing.pem")
