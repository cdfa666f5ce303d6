"""What a run needs of the system: the fastest event loop there is, a way to end early, and room for connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

SPARE_FILES = 100
"""Open files that are not connections: logs, the trace, libraries."""


def run_until_signalled(work: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    """Run ``work``, which gets an event that SIGINT, SIGTERM or SIGHUP sets.

    A second SIGINT or SIGTERM ends it the hard way. SIGHUP means that the terminal is gone: what is printed there goes
    nowhere from then on, instead of failing. Under ``nohup``, SIGHUP stays ignored.
    """
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]  # one that is gone cannot be asked

    # Any: what a coroutine yields to the event loop is the loop's business.
    async def main() -> T:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def signalled() -> None:
            if stop.is_set():
                task.cancel()
            stop.set()

        def hung_up() -> None:
            _silence(terminals)
            stop.set()  # never more: the kernel and the shell may both tell of the same terminal

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, signalled)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, hung_up)
        return await work(stop)

    try:
        import uvloop
    except ImportError:  # a platform without it
        return asyncio.run(main())
    return uvloop.run(main())


async def unless_stopped(work: Coroutine[Any, Any, T], stop: asyncio.Event) -> T | None:
    """Await ``work``, unless ``stop`` is set first: then cancel it and return ``None``."""
    # Any: what a coroutine yields to the event loop is the loop's business.
    working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not working.done():
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
        return None
    return working.result()


def room_for_connections(wanted: int) -> int:
    """Let this process open as many files as it may; returns how many connections fit, at most ``wanted``."""
    try:
        import resource
    except ImportError:  # a platform without such limits
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted + SPARE_FILES:
        most = wanted + SPARE_FILES
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - SPARE_FILES))


def _silence(descriptors: list[int]) -> None:
    """Have them lead nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
