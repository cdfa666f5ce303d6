"""The stability field beside a training: what it is sent, and everything that may be wrong with it."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from amaru.errors import AmaruError
from amaru.learning.psi_field import PsiField
from amaru.stability.client import FIRST_PAUSE_S, http_call
from amaru.stability.guardian import Intervention

GOOD = {"Psi": 0.7, "C": 0.1, "U": 0.2, "Phi": 0.3, "H": 0.4, "PE": 0.5, "_guardian": {"intervention": None}}


class Service:
    """A field over real sockets, that answers as its ``script`` says, then well."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.script: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.answer: object = GOOD
        self.released = threading.Event()
        self.url = ""

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["content-length"]))
        self.calls.append((handler.path, json.loads(body)))
        if self.script:
            self.script.pop(0)(handler)
        else:
            send(handler, 200, json.dumps(self.answer).encode())

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        self.released.wait(60)
        handler.close_connection = True

    def drip(self, handler: BaseHTTPRequestHandler) -> None:
        """A byte now and then, for ever: no single wait is long."""
        handler.send_response(200)
        handler.send_header("content-length", "1000000")
        handler.end_headers()
        while not self.released.wait(0.05):
            try:
                handler.wfile.write(b" ")
            except OSError:
                return
        handler.close_connection = True


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def says(status: int, body: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: send(handler, status, body)


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


@contextmanager
def served(service: Service) -> Iterator[Service]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            service.handle(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.released.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    with served(Service()) as one:
        yield one


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def field_at(url: str, said: list[str], clock: Callable[[], float], *, limit_s: float = 30.0) -> PsiField:
    return PsiField(url, 3, say=said.append, clock=clock, call=http_call(limit_s))


def test_it_is_told_its_dimension_once_and_then_the_rewards(service: Service) -> None:
    said: list[str] = []
    field = field_at(service.url + "/", said, Clock())
    readings = [field.read([0.1, 0.2, 0.3]), field.read([0.4, 0.5, 0.6])]
    assert service.calls == [
        ("/init", {"dimension": 3}),
        ("/step", {"x": [0.1, 0.2, 0.3], "apply_guardian": True}),
        ("/step", {"x": [0.4, 0.5, 0.6], "apply_guardian": True}),
    ]
    assert readings[0] is not None
    assert readings[0].figures == {"Psi": 0.7, "C": 0.1, "U": 0.2, "Phi": 0.3, "H": 0.4, "PE": 0.5}
    assert readings[0].intervention is None
    assert said == []


@pytest.mark.parametrize(
    "guardian",
    [
        {"_guardian": {"intervention": "nigredo"}},
        {"_guardian": {"intervention": {"kind": "nigredo", "strength": 2}}},
        {"_guardian.intervention": "nigredo"},
    ],
)
def test_what_the_guardian_asks_for_is_understood(service: Service, guardian: dict[str, object]) -> None:
    service.answer = {**{name: value for name, value in GOOD.items() if name != "_guardian"}, **guardian}
    reading = field_at(service.url, [], Clock()).read([0, 0, 0])
    assert reading is not None
    assert reading.intervention is Intervention.NIGREDO


def test_a_word_that_is_unknown_is_ignored_and_told_once(service: Service) -> None:
    service.answer = {**GOOD, "_guardian": {"intervention": "rubedo"}}
    said: list[str] = []
    field = field_at(service.url, said, Clock())
    for _ in range(3):
        reading = field.read([0, 0, 0])
        assert reading is not None
        assert reading.intervention is None
    assert len(said) == 1
    assert "'rubedo'" in said[0]


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        (says(500, b"{}"), "status 500"),
        (says(302, b""), "status 302"),
        (says(200, b"<html>"), "no JSON"),
        (says(200, b"\xff\xfe"), "no JSON"),
        (says(200, b"[1, 2]"), "no JSON object"),
        (says(200, b"{}"), "none of the numbers"),
        (says(200, b'{"Psi": "high", "C": null, "U": true}'), "none of the numbers"),
        (says(200, b'{"Psi": 1e999}'), "no JSON|none of the numbers"),
        (says(200, b'{"Psi": NaN}'), "no JSON"),
        (says(200, b" " * 9_000_000), "longer than"),
        (hangs_up, "no answer: connection closed"),
    ],
)
def test_a_service_that_breaks_is_done_without_told_once_and_used_again(
    service: Service, breaks: Callable[[BaseHTTPRequestHandler], None], reason: str
) -> None:
    import re

    said: list[str] = []
    clock = Clock()
    field = field_at(service.url, said, clock)
    assert field.read([0, 0, 0]) is not None
    service.script = [breaks]
    assert field.read([1, 1, 1]) is None
    assert field.read([2, 2, 2]) is None  # left alone for now
    assert [path for path, _ in service.calls] == ["/init", "/step", "/step"]
    clock.now += FIRST_PAUSE_S
    assert field.read([3, 3, 3]) is not None
    assert [path for path, _ in service.calls[3:]] == ["/init", "/step"]  # it may have been restarted
    service.script = [breaks]
    assert field.read([4, 4, 4]) is None
    assert field.missed == 3
    assert len(said) == 2
    assert re.search(rf"is away \(.*({reason}).*\); training goes on", said[0])
    assert "is back" in said[1]


@pytest.mark.parametrize("slow", ["hang", "drip"])
def test_a_service_that_is_slow_is_not_waited_for(service: Service, slow: str) -> None:
    said: list[str] = []
    service.script = [getattr(service, slow)]
    field = field_at(service.url, said, Clock(), limit_s=0.3)
    assert field.read([0, 0, 0]) is None
    assert "no answer within 0.3 s" in said[0]


def test_a_service_that_is_not_there_is_left_alone_longer_and_longer() -> None:
    with served(Service()) as gone:
        url = gone.url
    said: list[str] = []
    clock = Clock()
    calls = 0

    call = http_call(5.0)

    def counted(url: str, body: bytes | None) -> bytes:
        nonlocal calls
        calls += 1
        return call(url, body)

    field = PsiField(url, 3, say=said.append, clock=clock, call=counted)
    for _ in range(600):
        assert field.read([0, 0, 0]) is None
        clock.now += 1.0
    assert calls == 13  # after 5, 10, 20, 40 seconds, and every 60 from then on
    assert len(said) == 1
    assert field.missed == 600


def test_figures_that_are_no_finite_numbers_are_left_out(service: Service) -> None:
    service.answer = {**GOOD, "Psi": "high", "C": None, "U": True, "H": 10**400}
    reading = field_at(service.url, [], Clock()).read([0, 0, 0])
    assert reading is not None
    assert [name for name, value in reading.figures.items() if math.isnan(value)] == ["Psi", "C", "U", "H"]
    assert reading.figures["PE"] == 0.5


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://host", "http://", "http://host:99999", "http://host/?x=1", "http://[::1"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(AmaruError, match="--psi-field"):
        PsiField(url, 3, say=print, clock=Clock())
