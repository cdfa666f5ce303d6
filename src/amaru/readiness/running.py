"""Runs a coroutine on the fastest event loop there is, with a way to end it early."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


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


def _silence(descriptors: list[int]) -> None:
    """Have them lead nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
