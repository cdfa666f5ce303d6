"""Child processes of a run: started, waited for, watched, ended. What they say is kept for when they fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from amaru.errors import AmaruError

TAIL_LINES = 15

_MAIN = """
from amaru.readiness.lifeline import end_with_parent
end_with_parent()
from amaru.cli.main import main
main()
"""


class ChildError(AmaruError):
    """A child process did not start, or died; the message shows the last lines that it wrote."""


class Child:
    """An ``amaru`` command running as a process of its own.

    It gets its own session, so that a Ctrl-C in the terminal reaches only us: we end it when we are done with it. Where
    we are killed before that, it ends by itself (`amaru.readiness.lifeline`).
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._reader = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def start(cls, name: str, arguments: Sequence[str], directory: Path) -> Child:
        """Start ``amaru ARGUMENTS`` in ``directory``."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _MAIN,
            *arguments,
            cwd=directory,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        return cls(name, process)

    async def line(self, wanted: Callable[[str], bool], limit_s: float) -> str:
        """The first line that is ``wanted``.

        Raises
        ------
        ChildError
            It died before, or said nothing of the kind within ``limit_s``.
        """
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    line = await self._lines.get()
                    if line is None:
                        raise ChildError(f"{self.name} ended while starting{self._said()}")
                    if wanted(line):
                        return line
        except TimeoutError:
            raise ChildError(f"{self.name} was not ready within {limit_s:g} s{self._said()}") from None

    async def died(self) -> ChildError:
        """Wait for it to end, and return the error that this is."""
        code = await self._process.wait()
        await self._reader
        return ChildError(f"{self.name} ended with status {code} during the run{self._said()}")

    async def stop(self, limit_s: float = 5.0) -> None:
        """End it: SIGTERM, and SIGKILL for one that does not listen."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(limit_s):
                    await self._process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()
        await self._reader

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                raw = await self._process.stdout.readline()
            except ValueError:  # a line beyond the reader's limit
                continue
            if not raw:
                break
            line = raw.decode("utf-8", "replace").rstrip()
            self._tail.append(line)
            if self._lines.qsize() < TAIL_LINES * 10:
                self._lines.put_nowait(line)
        self._lines.put_nowait(None)

    def _said(self) -> str:
        if not self._tail:
            return "; it said nothing"
        return "; its last lines:\n" + "\n".join(f"  {line}" for line in self._tail)
