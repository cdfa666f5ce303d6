"""The parts under the transports: endpoints, header blocks, content decoding, dialling."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.domain import FailureKind
from amaru.errors import ConfigError, Failure
from amaru.providers import dial as dialling
from amaru.providers.content import STEP_BYTES, Decoder, UndecodableError, decoder_for
from amaru.providers.h1 import H1Transport
from amaru.providers.h1_message import HEAD, ResponseMessage
from amaru.providers.transport import Endpoint, HeaderBlock, endpoint_from_url, open_transport

# Endpoints and headers.


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "base_path", "host_header"),
    [
        ("https://api.example.com/v1", "https", "api.example.com", 443, "/v1", "api.example.com"),
        ("https://api.example.com/v1/", "https", "api.example.com", 443, "/v1", "api.example.com"),
        ("http://10.0.0.1:8000", "http", "10.0.0.1", 8000, "", "10.0.0.1:8000"),
        ("http://[::1]:8000/a/b", "http", "::1", 8000, "/a/b", "[::1]:8000"),
        ("http://example.com:80", "http", "example.com", 80, "", "example.com"),
        ("https://bücher.example", "https", "xn--bcher-kva.example", 443, "", "xn--bcher-kva.example"),
    ],
)
def test_an_endpoint_from_a_url(url, scheme, host, port, base_path, host_header):
    endpoint = endpoint_from_url(url)
    assert (endpoint.scheme, endpoint.host, endpoint.port, endpoint.base_path) == (scheme, host, port, base_path)
    assert endpoint.host_header == host_header


@pytest.mark.parametrize(
    "url",
    ["", "api.example.com", "ftp://a", "http://", "http://a?b=1", "http://a#b", "http://a:99999", "http://a/b c"],
)
def test_a_url_that_is_no_endpoint(url):
    with pytest.raises(ValueError, match=r".+"):
        endpoint_from_url(url)


def test_credentials_in_a_url_are_refused_and_not_repeated():
    with pytest.raises(ValueError, match="user") as caught:
        endpoint_from_url("https://me:hunter2@example.com/")
    assert "hunter2" not in str(caught.value)


def test_an_endpoint_keeps_the_settings_of_its_template():
    template = Endpoint(scheme="http", host="a", port=1, max_connections=7, provider="p")
    endpoint = endpoint_from_url("https://b/v1", template=template)
    assert (endpoint.host, endpoint.max_connections, endpoint.setting) == ("b", 7, "providers.p")


def test_a_header_block_is_rendered_once():
    block = HeaderBlock([(b"a", b"1"), (b"b", b"\xc3\xbc")])
    assert block == ((b"a", b"1"), (b"b", b"\xc3\xbc"))
    assert block.rendered == b"a: 1\r\nb: \xc3\xbc\r\n"


def test_the_configuration_names_the_transport():
    endpoint = Endpoint(scheme="http", host="a", port=1)
    assert isinstance(open_transport(endpoint), H1Transport)


@pytest.mark.parametrize("kind", ["h1", "reqwest"])
@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_an_unusable_ca_file_is_a_mistake_of_the_configuration(kind, content, tmp_path):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    endpoint = Endpoint(scheme="https", host="a", port=1, ca_file=str(file), transport=kind, provider="p")
    with pytest.raises(ConfigError, match=r"providers\.p\.ca_file"):
        open_transport(endpoint)


# Content-encodings.


def _decode(encoding: bytes, pieces: list[bytes]) -> bytes:
    decoder = Decoder(encoding)
    parts = []
    for piece in pieces:
        decoder.feed(piece)
        while part := decoder.step():
            assert len(part) <= STEP_BYTES
            parts.append(part)
    if not decoder.finished:
        raise UndecodableError("early end")
    return b"".join(parts)


@given(
    texts=st.lists(st.binary(max_size=300), min_size=1, max_size=3),
    encoding=st.sampled_from([b"gzip", b"deflate"]),
    size=st.integers(1, 50),
)
def test_encoded_bodies_decode_however_they_are_split(texts, encoding, size):
    wire = b"".join(gzip.compress(text) for text in texts) if encoding == b"gzip" else zlib.compress(b"".join(texts))
    pieces = [wire[start : start + size] for start in range(0, len(wire), size)]
    assert _decode(encoding, pieces) == b"".join(texts)


@given(garbage=st.lists(st.binary(max_size=100), max_size=5), encoding=st.sampled_from([b"gzip", b"deflate"]))
def test_garbage_decodes_or_is_refused(garbage, encoding):
    with contextlib.suppress(UndecodableError):
        _decode(encoding, garbage)


def test_one_step_is_bounded():
    decoder = Decoder(b"gzip")
    decoder.feed(gzip.compress(bytes(20_000_000)))
    sizes = []
    while part := decoder.step():
        sizes.append(len(part))
    assert max(sizes) <= STEP_BYTES
    assert sum(sizes) == 20_000_000


def test_headers_of_the_encoded_form_go_away():
    headers = {b"content-encoding": b" GZIP", b"content-length": b"9", b"x": b"1"}
    assert decoder_for(headers) is not None
    assert headers == {b"x": b"1"}
    assert decoder_for({b"content-encoding": b"identity"}) is None
    with pytest.raises(UndecodableError, match="br"):
        decoder_for({b"content-encoding": b"br"})


# Bodies.


def test_a_body_in_tiny_chunks_takes_little_more_memory_than_its_size():
    message = ResponseMessage()
    message.state = HEAD
    message.parser.feed_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    chunks = b"".join(b"2\r\n%02d\r\n" % number for number in range(100))
    tracemalloc.start()
    try:
        for _ in range(2000):
            message.parser.feed_data(chunks)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 2 * message.buffered_bytes
    assert message.take() == b"".join(b"%02d" % number for number in range(100)) * 2000
    assert (message.take(), message.buffered_bytes, message.body_bytes) == (b"", 0, 400_000)


# Dialling.


ADDRESSES = [(socket.AF_INET6, ("2001:db8::1", 1, 0, 0)), (socket.AF_INET, ("192.0.2.1", 1))]

Lanes = asyncio.Queue[asyncio.Future[socket.socket]]


@pytest.fixture
async def lanes(monkeypatch: pytest.MonkeyPatch) -> Lanes:
    """The attempts of a race as they start; the test decides how each one ends, and when."""
    attempts: Lanes = asyncio.Queue()

    async def connect(address):
        outcome = asyncio.get_running_loop().create_future()
        attempts.put_nowait(outcome)
        return await outcome

    monkeypatch.setattr(dialling, "_connect", connect)
    return attempts


async def test_a_dead_first_address_does_not_hold_the_second_up(lanes: Lanes, monkeypatch):
    monkeypatch.setattr(dialling, "ATTEMPT_DELAY_S", 0.01)
    race = asyncio.ensure_future(dialling._race(ADDRESSES))
    first, second = await lanes.get(), await lanes.get()
    with socket.socket() as won:
        second.set_result(won)
        assert await race is won
    await asyncio.sleep(0)
    assert first.cancelled()


async def test_an_address_that_refuses_starts_the_next_at_once(lanes: Lanes, monkeypatch):
    monkeypatch.setattr(dialling, "ATTEMPT_DELAY_S", 60)
    race = asyncio.ensure_future(dialling._race(ADDRESSES))
    (await lanes.get()).set_exception(ConnectionRefusedError())
    (await lanes.get()).set_exception(OSError("unreachable"))
    with pytest.raises(ConnectionRefusedError):
        await race


async def test_a_cancelled_race_closes_what_it_opened(lanes: Lanes, monkeypatch):
    monkeypatch.setattr(dialling, "ATTEMPT_DELAY_S", 0.0)
    race = asyncio.ensure_future(dialling._race(ADDRESSES))
    first, second = await lanes.get(), await lanes.get()
    late = socket.socket()
    second.set_result(late)
    await asyncio.sleep(0)  # the attempt has ended, and the race has not heard of it
    race.cancel()
    with pytest.raises(asyncio.CancelledError):
        await race
    await asyncio.sleep(0)
    assert late.fileno() == -1
    assert first.cancelled()


async def test_the_deadline_bounds_dialling_below_the_connect_timeout(lanes: Lanes):
    endpoint = Endpoint(scheme="http", host="127.0.0.1", port=1, connect_timeout_s=60)
    loop = asyncio.get_running_loop()
    with pytest.raises(Failure, match="before the deadline") as caught:
        await dialling.dial(endpoint, None, asyncio.Protocol, deadline=loop.time() + 0.05)
    assert caught.value.kind is FailureKind.NO_ANSWER
