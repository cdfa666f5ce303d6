"""Runs a coroutine on the fastest event loop there is, with a way to end it early."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_until_signalled(work: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T:
    """Run ``work``, which gets an event that SIGINT or SIGTERM sets; a second signal ends it the hard way."""
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

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, signalled)
        return await work(stop)

    try:
        import uvloop
    except ImportError:  # a platform without it
        return asyncio.run(main())
    return uvloop.run(main())
