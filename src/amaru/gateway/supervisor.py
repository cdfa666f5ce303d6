"""``amaru serve --workers N``: starts the workers of one machine, restarts those that die, and ends them all.

The supervisor serves nothing. It holds what must outlive a worker: the listening sockets, so that callers and
administrators who connect wait for one instead of being refused; the memory that workers share; and the sockets at
which the owner is reached. Workers are interpreters of their own. Where the supervisor dies, a pipe tells them, and
they drain and end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from amaru.config import Config
from amaru.gateway.seat import Seat
from amaru.http1 import ServerSettings, listen
from amaru.mesh.company import BUS, RELAY
from amaru.routing.shared import OWNER, Memory
from amaru.telemetry.logs import get_logger

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.25, 15.0
"""Before a worker that died is started anew; doubles while it goes on dying."""
PROVEN_S = 30.0
"""A worker that served for so long is started anew at once, when it dies."""
BACKLOG = 128
MAIN = "from amaru.cli.main import main; main()"

log = get_logger("gateway")


@dataclass(slots=True)
class Worker:
    """One worker: its process of the moment."""

    number: int
    process: asyncio.subprocess.Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """It has served once."""
    serves: bool = False
    """It does now."""


class Supervisor:
    """Runs ``workers`` of them over one configuration.

    Parameters
    ----------
    environment
        As for ``process.run``; workers inherit it.
    announce
        Gets the address once all workers serve.
    """

    def __init__(
        self, config: Config, environment: Mapping[str, str], workers: int, *, announce: Callable[[str], None]
    ) -> None:
        self._config = config
        self._environment = dict(environment)
        self._announce = announce
        self._workers = [Worker(number) for number in range(workers)]
        self._stopping = asyncio.Event()
        self._listening: list[socket.socket] = []
        self._admin: list[socket.socket] = []
        self._folder = Path(tempfile.mkdtemp(prefix="amaru-"))
        self._memory = Memory.create(workers)
        self._bus, self._relay = (_unix_socket(self._folder / name) for name in (BUS, RELAY))
        self._lifeline, self._life = os.pipe()

    async def run(self) -> int:
        """Serve until told to stop; the exit status: the first that is not 0 of those with which the workers ended.

        Raises
        ------
        ListenError
            The address cannot be bound.
        """
        server, accounts = self._config.server, self._config.accounts
        try:
            self._listening = await listen(server.host, server.port, backlog=ServerSettings().backlog)
            if accounts.admin_port is not None:
                self._admin = await listen(accounts.admin_host, accounts.admin_port, backlog=BACKLOG)
            with self._signals():
                return await self._run()
        finally:
            for held in (*self._listening, *self._admin, self._bus, self._relay):
                held.close()
            os.close(self._life)
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _run(self) -> int:
        started = time.monotonic()
        owner, *others = self._workers
        lives = [asyncio.create_task(self._live(owner))]
        # First, and alone: it opens the store and the ledger, and says what is wrong with either.
        code = await self._first_start([owner], lives)
        if code is None:
            lives += [asyncio.create_task(self._live(worker)) for worker in others]
            code = await self._first_start(others, lives)
        if code is None:
            address, port = self._config.server.host, self._listening[0].getsockname()[1]
            shown = f"[{address}]" if ":" in address else address
            log.info("workers_serve", workers=len(self._workers), after_s=round(time.monotonic() - started, 3))
            self._announce(f"http://{shown}:{port}")
        else:
            self._stop()
        codes = [code or 0, *await asyncio.gather(*lives)]
        return next((code for code in codes if code), 0)

    async def _first_start(self, workers: list[Worker], lives: list[asyncio.Task[int]]) -> int | None:
        """``None`` once all of them serve, or the status with which one ended before."""

        async def all_ready() -> None:
            for worker in workers:
                await worker.ready.wait()

        ready = asyncio.create_task(all_ready())
        await asyncio.wait([ready, *lives], return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            return None
        ready.cancel()
        return next(life.result() for life in lives if life.done())

    async def _live(self, worker: Worker) -> int:
        """Start a worker, and again whenever it dies; its exit status once it is to be started no more."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            began = time.monotonic()
            code = await self._once(worker)
            self._memory.bury(worker.number)
            if self._stopping.is_set() or not worker.ready.is_set():
                if self._stopping.is_set() and code == -signal.SIGTERM:  # it did not serve yet: nobody was cut
                    return 0
                if code < 0:  # else it has said why itself
                    log.error("worker_killed", worker=worker.number, signal=-code)
                return code if code >= 0 else 1
            lived_s = time.monotonic() - began
            backoff_s = FIRST_BACKOFF_S if lived_s > PROVEN_S else min(2.0 * backoff_s, LONGEST_BACKOFF_S)
            log.error("worker_died", worker=worker.number, status=code, after_s=round(lived_s, 3), again_in_s=backoff_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff_s)
            if self._stopping.is_set():
                return 1

    async def _once(self, worker: Worker) -> int:
        ready, tells = os.pipe()
        seat = Seat(
            worker=worker.number,
            workers=len(self._workers),
            listening=tuple(one.fileno() for one in self._listening),
            memory=self._memory.file,
            bus=self._bus.fileno(),
            relay=self._relay.fileno(),
            ready=tells,
            lifeline=self._lifeline,
            folder=str(self._folder),
            admin=tuple(one.fileno() for one in self._admin) if worker.number == OWNER else (),
        )
        arguments = ["serve", "--config", str(self._config.path), "--seat", msgspec.json.encode(seat).decode()]
        # In a session of its own: what a terminal sends to its foreground is ours to pass on.
        worker.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", MAIN, *arguments,
            env=self._environment, pass_fds=seat.descriptors, start_new_session=True,
        )  # fmt: skip
        os.close(tells)
        loop = asyncio.get_running_loop()

        def told() -> None:
            loop.remove_reader(ready)
            worker.serves = bool(os.read(ready, 1))  # nothing: it has ended
            if worker.serves:
                worker.ready.set()

        loop.add_reader(ready, told)
        if self._stopping.is_set():  # it came while the worker was being made
            self._send(worker, signal.SIGTERM)
        try:
            return await worker.process.wait()
        finally:
            loop.remove_reader(ready)
            os.close(ready)
            worker.serves = False

    # ---- signals ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGHUP: self._reload}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        """Have all workers drain; the second time, end at once."""
        self._stopping.set()
        for listening in (*self._listening, *self._admin):
            listening.close()  # with the workers' own, so that who connects now is refused
        for worker in self._workers:
            self._send(worker, signal.SIGTERM)

    def _reload(self) -> None:
        for worker in self._workers:
            if worker.serves:  # else it would end by the signal; one that is starting looks at the file by itself
                self._send(worker, signal.SIGHUP)

    @staticmethod
    def _send(worker: Worker, number: signal.Signals) -> None:
        if worker.process is not None and worker.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                worker.process.send_signal(number)


def _unix_socket(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen(BACKLOG)
    made.setblocking(False)
    return made
