"""A simulated provider: an OpenAI-compatible HTTP server that behaves, and misbehaves, like a real one.

    async with SimulatedProvider(SEVEN[0], seed=7) as provider:
        client = openai.AsyncOpenAI(base_url=provider.base_url, api_key="any")
        provider.faults.add(Fault(kind="cut", after_events=3, times=1))

Serves ``POST /v1/chat/completions``, ``/v1/completions``, ``/v1/embeddings``, ``GET /v1/models``, the same under
``/v2``, ``GET /health``, and for whoever runs the simulation: ``GET /sim/bill``, ``/sim/usage``, ``/sim/state``,
``/sim/faults``, ``POST /sim/faults``, ``DELETE /sim/faults[/ID]``.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType

import msgspec

from amaru.domain import Kind
from amaru.errors import RequestError
from amaru.http1.request import Request
from amaru.http1.settings import ListenError
from amaru.simulation.billing import Bill
from amaru.simulation.breaking import JSON
from amaru.simulation.faults import Fault, Incident
from amaru.simulation.listening import FaultyServer
from amaru.simulation.profiles import ProviderProfile
from amaru.simulation.serving import Inference, refuse
from amaru.simulation.striking import Faults

VERSIONS = ("v1", "v2")
"""Of its API, which differ only where a fault strikes one of them."""
_KINDS = {
    f"/{version}{path}": (kind, version)
    for version in VERSIONS
    for path, kind in {
        "/chat/completions": Kind.CHAT,
        "/completions": Kind.COMPLETION,
        "/embeddings": Kind.EMBEDDING,
    }.items()
}
_FAULTS = "/sim/faults"
_REOPEN_RETRY_S = 0.05


class Received(msgspec.Struct, frozen=True):
    """A request as it arrived, for tests that look at what was sent."""

    path: str
    headers: dict[bytes, bytes]
    body: bytes


class SimulatedProvider:
    """One provider on one port of this machine.

    Parameters
    ----------
    profile
        What it is; the default is instant, unlimited and free.
    faults
        Switched on from the start.
    script
        Faults that switch themselves on later; those of other providers are passed over.
    seed
        Of latencies and of faults with a probability. Answers depend on ``profile.answer_seed`` alone.
    host, port
        Where it listens; port 0 takes a free one.
    clock
        Unix seconds: rate limits, the duration of faults, ``created``.
    keep_received
        How many of the latest requests ``received`` keeps.

    Attributes
    ----------
    faults, bill
        What goes wrong, and what is owed.
    requests
        Inference requests that arrived, refused and broken ones too.
    """

    def __init__(
        self,
        profile: ProviderProfile | None = None,
        *,
        faults: Iterable[Fault] = (),
        script: Iterable[Incident] = (),
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
        keep_received: int = 0,
    ) -> None:
        self.profile = profile or ProviderProfile()
        self.bill = Bill()
        self.requests = 0
        self.received: deque[Received] = deque(maxlen=keep_received)
        self._host, self._port = host, port
        self._clock = clock
        self._script = [incident for incident in script if incident.provider == self.profile.name]
        self._script_timers: list[asyncio.TimerHandle] = []
        self._next_look: asyncio.TimerHandle | None = None
        self._reopening: asyncio.Task[None] | None = None
        self._running = False
        rng = random.Random(f"faults {seed}")  # noqa: S311 -- reproducible, not secret
        self.faults = Faults(clock, rng, self._faults_changed)
        for fault in faults:
            self.faults.add(fault)
        self.inference = Inference(self.profile, self.faults, self.bill, clock, random.Random(seed))  # noqa: S311
        self._server = FaultyServer(self._handle, self.faults.strike_connection, wall_clock=clock)

    async def __aenter__(self) -> SimulatedProvider:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, and begin the script.

        Raises
        ------
        ListenError
            The port is taken.
        """
        await self._server.listen(self._host, self._port)
        self._running = True
        self.play(self._script)
        self._faults_changed()

    async def stop(self) -> None:
        """Close the port and every connection."""
        self._running = False
        for timer in (*self._script_timers, self._next_look):
            if timer is not None:
                timer.cancel()
        if self._reopening is not None:
            self._reopening.cancel()
        await self._server.close()

    def play(self, script: Iterable[Incident]) -> None:
        """Begin a script now: each of its faults is switched on after its ``at_s``."""
        loop = asyncio.get_running_loop()
        for incident in script:
            self._script_timers.append(loop.call_later(incident.at_s, self.faults.add, incident.fault))

    @property
    def port(self) -> int:
        """The port, also while a fault keeps it closed."""
        return self._server.address[1]

    @property
    def url(self) -> str:
        """``http://host:port``."""
        return f"http://{self._host}:{self.port}"

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes for ``base_url``."""
        return f"{self.url}/v1"

    @property
    def alternate_url(self) -> str:
        """The same API in another version, which faults with a ``version`` leave alone."""
        return f"{self.url}/v2"

    @property
    def in_flight(self) -> int:
        """Requests being served now."""
        return self.inference.slots.in_flight

    @property
    def connection_count(self) -> int:
        """Open connections."""
        return self._server.connection_count

    # --- faults that reach beyond one request -----------------------------------------------------------------------

    def _faults_changed(self) -> None:
        """Open or close the port, let waiting requests into a grown capacity, and look again when a fault runs out."""
        if not self._running:
            return
        self.inference.slots.wake()
        refusing = self.faults.of_kind("refuse")
        if refusing is not None:
            self._server.close_port(cut_answers=refusing.under_way)
        elif not self._server.is_listening and (self._reopening is None or self._reopening.done()):
            self._reopening = asyncio.get_running_loop().create_task(self._reopen())
        active = self.faults.active()
        if any(entry.fault.point == "connect" for entry in active):
            self._server.close_resting()
        ends = [entry.until for entry in active if entry.until is not None and _lasts(entry.fault)]
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        if ends:
            wait_s = max(0.0, min(ends) - self._clock()) + 0.001
            self._next_look = asyncio.get_running_loop().call_later(wait_s, self._faults_changed)

    async def _reopen(self) -> None:
        host, port = self._server.address
        while self.faults.of_kind("refuse") is None:
            try:
                await self._server.listen(host, port)
            except ListenError:
                await asyncio.sleep(_REOPEN_RETRY_S)
            else:
                return

    # --- HTTP -------------------------------------------------------------------------------------------------------

    async def _handle(self, request: Request) -> None:
        path = request.path
        served = _KINDS.get(path)
        if served is not None:
            if request.method != "POST":
                refuse(request, RequestError(405, f"{path} takes POST, not {request.method}"))
                return
            self.requests += 1
            if self.received.maxlen:
                self.received.append(Received(path, request.headers, request.body))
            await self.inference.serve(request, *served)
            return
        if path == "/sim/usage" and request.method in ("GET", "HEAD"):
            request.respond(200, [(b"content-type", b"text/csv; charset=utf-8")], self.bill.as_csv().encode())
            return
        try:
            status, answer = self._answer(request.method, path, request.body)
        except RequestError as error:
            refuse(request, error)
        else:
            request.respond(status, [JSON], msgspec.json.encode(answer))

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        if path == _FAULTS or path.startswith(_FAULTS + "/"):
            return self._control(method, path[len(_FAULTS) + 1 :], body)
        if method in ("GET", "HEAD"):
            match path:
                case "/v1/models" | "/v2/models":
                    return 200, {"object": "list", "data": self._models()}
                case "/health":
                    return 200, {"status": "ok", "provider": self.profile.name}
                case "/sim/bill":
                    return 200, self.bill.as_dict()
                case "/sim/state":
                    return 200, self.state()
        raise RequestError(404, f"Nothing is served at {method} {path}", code="not_found")

    def _models(self) -> list[dict[str, object]]:
        created = int(self._clock())
        window = self.profile.context_window_tokens
        names = (*self.profile.models, *self.profile.embedding_models)
        return [
            {"id": name, "object": "model", "created": created, "owned_by": self.profile.name, "context_length": window}
            for name in names
        ]

    def state(self) -> dict[str, object]:
        """What is going on now, for ``GET /sim/state``."""
        slots = self.inference.slots
        return {
            "provider": self.profile.name,
            "requests": self.requests,
            "in_flight": slots.in_flight,
            "waiting": slots.waiting,
            "load": slots.load,
            "connections": self.connection_count,
            "faults": len(self.faults.active()),
        }

    def _control(self, method: str, id: str, body: bytes) -> tuple[int, object]:
        match method, bool(id):
            case "GET", False:
                return 200, {"faults": [_shown(entry.id, entry.fault, entry.hits) for entry in self.faults.active()]}
            case "POST", False:
                fault = self._parsed(body)
                entry = self.faults.add(fault)
                return 201, _shown(entry.id, fault, 0)
            case "DELETE", False:
                self.faults.clear()
                return 200, {"faults": []}
            case "DELETE", True:
                if self.faults.remove(id):
                    return 200, {"removed": id}
                raise RequestError(404, f"no active fault {id!r}; GET {_FAULTS} lists them")
        raise RequestError(405, f"{_FAULTS} takes GET, POST and DELETE, {_FAULTS}/ID takes DELETE")

    def _parsed(self, body: bytes) -> Fault:
        try:
            fault = msgspec.json.decode(body, type=Fault)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RequestError(400, f"not a fault: {error}") from None
        if fault.kind == "refuse" and fault.duration_s is None:
            words = "a refuse fault closes this very port: give duration_s, since no call could switch it off"
            raise RequestError(400, words, param="duration_s")
        return fault


def _lasts(fault: Fault) -> bool:
    return fault.kind in ("refuse", "capacity")


def _shown(id: str, fault: Fault, hits: int) -> dict[str, object]:
    return {"id": id, "hits": hits, "describes": fault.describe(), "fault": fault}
