"""Every transport over TLS; and what only pyreqwest offers: HTTP/2 and outgoing proxies."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import pytest
from h2.errors import ErrorCodes
from transport_calls import LIMIT, ask, every, failure_of
from transport_peer import OK, Authority, Script, Wire, answer

from amaru.domain import FailureKind
from amaru.errors import Failure


@every
async def test_tls_with_an_authority_of_ones_own(kind, peer, connect, authority: Authority):
    server = await peer(answer(OK, then="keep"), tls=authority.issue("localhost", "127.0.0.1"))
    transport = connect(server, kind, scheme="https", host="localhost", ca_file=authority.ca_file)
    for _ in range(3):
        assert await (await ask(transport)).read(LIMIT) == b"ok"
    assert server.accepted == 1


@every
async def test_tls_from_an_unknown_authority_is_refused_with_a_remedy(kind, peer, connect, authority: Authority):
    server = await peer(answer(OK), tls=authority.issue("localhost"))
    failure = await failure_of(ask(connect(server, kind, scheme="https", host="localhost")), FailureKind.CONNECT)
    assert "providers.test.ca_file" in failure.message
    assert not server.requests


@every
async def test_tls_for_another_host_is_refused(kind, peer, connect, authority: Authority):
    server = await peer(answer(OK), tls=authority.issue("elsewhere.example"))
    transport = connect(server, kind, scheme="https", host="localhost", ca_file=authority.ca_file)
    failure = await failure_of(ask(transport), FailureKind.CONNECT)
    assert "certificate" in failure.message
    assert not server.requests


@every
async def test_tls_unverified_where_the_configuration_says_so(kind, peer, connect, authority: Authority):
    server = await peer(answer(OK), tls=authority.issue("elsewhere.example"))
    transport = connect(server, kind, scheme="https", host="localhost", verify=False)
    assert await (await ask(transport)).read(LIMIT) == b"ok"


@every
async def test_tls_to_a_plain_server(kind, peer, connect):
    async def script(wire: Wire) -> None:
        await wire.reader.read(100)
        await wire.send(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")

    await failure_of(ask(connect(await peer(script), kind, scheme="https")), FailureKind.CONNECT)


@every
async def test_a_handshake_that_never_ends_is_bounded_by_the_connect_timeout(kind, peer, connect):
    server = await peer(Wire.gone)
    transport = connect(server, kind, scheme="https", connect_timeout_s=0.2)
    await failure_of(ask(transport, within_s=60), FailureKind.NO_ANSWER)


@every
async def test_a_cut_inside_tls(kind, peer, connect, authority: Authority):
    tls = authority.issue("localhost")
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfour"
    transport = connect(
        await peer(answer(head, then="reset"), tls=tls),
        kind,
        scheme="https",
        host="localhost",
        ca_file=authority.ca_file,
    )
    response = await ask(transport)
    await failure_of(response.read(LIMIT), FailureKind.STREAM_CUT)


@every
async def test_the_protocol_that_is_negotiated(kind, peer, connect, authority: Authority):
    async def script(wire: Wire) -> None:
        chosen.append(wire.writer.get_extra_info("ssl_object").selected_alpn_protocol())

    chosen: list[str] = []
    tls = authority.issue("localhost")
    tls.set_alpn_protocols(["h2", "http/1.1"])
    transport = connect(await peer(script, tls=tls), kind, scheme="https", host="localhost", ca_file=authority.ca_file)
    with pytest.raises(Failure):
        await ask(transport)
    assert chosen == [{"h1": "http/1.1", "reqwest": "h2"}[kind]]


# What only pyreqwest offers.


def _speaks_http2(end: ErrorCodes | None) -> Script:
    """An HTTP/2 server that answers each request in two parts; ``end``: with that RST_STREAM instead of the second."""

    async def script(wire: Wire) -> None:
        http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        http2.initiate_connection()
        await wire.send(http2.data_to_send())
        while data := await wire.reader.read(65536):
            for event in http2.receive_data(data):
                if isinstance(event, h2.events.StreamEnded):
                    http2.send_headers(event.stream_id, [(":status", "200"), ("x-a", "1"), ("x-a", "2")])
                    http2.send_data(event.stream_id, b"four")
                    if end is None:
                        http2.send_data(event.stream_id, b"more", end_stream=True)
                    else:
                        http2.reset_stream(event.stream_id, end)
            await wire.send(http2.data_to_send())

    return script


@pytest.mark.parametrize("end", [None, ErrorCodes.INTERNAL_ERROR, ErrorCodes.NO_ERROR])
async def test_http2(end, peer, connect, authority: Authority):
    tls = authority.issue("localhost")
    tls.set_alpn_protocols(["h2"])
    server = await peer(_speaks_http2(end), tls=tls)
    transport = connect(server, "reqwest", scheme="https", host="localhost", ca_file=authority.ca_file)
    for _ in range(3):
        response = await ask(transport)
        assert (response.status, response.headers[b"x-a"]) == (200, b"1, 2")
        if end is ErrorCodes.INTERNAL_ERROR:
            await failure_of(response.read(LIMIT), FailureKind.STREAM_CUT)
        else:  # hyper takes a reset without an error for an end: its content must tell whether it was one
            assert await response.read(LIMIT) == (b"fourmore" if end is None else b"four")
            assert response.ended_by_eof
    assert server.accepted == 1


async def test_an_outgoing_proxy(peer, connect, monkeypatch: pytest.MonkeyPatch):
    proxy = await peer(answer(OK))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
    response = await ask(connect(80, "reqwest", host="api.example"))
    assert await response.read(LIMIT) == b"ok"
    assert proxy.requests[0].startswith(b"POST http://api.example/v1/chat/completions HTTP/1.1\r\n")
