"""Starts ``amaru serve`` again and again without importing it anew, which is nearly all that a start costs.

As a program it has imported the gateway, and forks one whenever it is told to; from there on that is ``amaru serve``
as ever. ``Nursery`` is the other end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

MOST_BYTES = 65_536


class Nursery:
    """Gateways' parent process."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__)), str(theirs.fileno())], pass_fds=[theirs.fileno()]
            )
        self._ask({})  # it has imported everything, so that the first start is timed as the others

    def start(self, arguments: Sequence[str], log: BinaryIO) -> tuple[int, BinaryIO]:
        """``amaru ARGUMENTS``: its process id, and what it writes to its standard output."""
        out, into = os.pipe()
        said = json.dumps({"start": list(arguments)}).encode()
        try:
            socket.send_fds(self._control, [said], [into, log.fileno()])
        finally:
            os.close(into)
        return self._answer(), os.fdopen(out, "rb")

    def status(self, pid: int) -> int:
        """That with which one ended, once it has; below 0: the signal."""
        return self._ask({"status": pid})

    def close(self) -> None:
        """End; gateways that live go on."""
        self._control.close()
        self._process.wait()

    def _ask(self, what: object) -> int:
        self._control.send(json.dumps(what).encode())
        return self._answer()

    def _answer(self) -> int:
        said = self._control.recv(MOST_BYTES)
        if not said:
            raise RuntimeError("the process that starts gateways has ended")
        return int(json.loads(said))


def main() -> None:
    """Do as told until nobody is there to tell."""
    import amaru.gateway.process
    import amaru.gateway.supervisor  # noqa: F401 - what `amaru serve` imports once it knows what to do
    from amaru.cli.main import main as amaru_main

    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        said, descriptors, _, _ = socket.recv_fds(control, MOST_BYTES, 2)
        if not said:
            return
        told = json.loads(said)
        answer = 0
        if "status" in told:
            answer = os.waitstatus_to_exitcode(os.waitpid(told["status"], 0)[1])
        elif "start" in told:
            answer = os.fork()
            if answer == 0:
                control.close()
                os.setsid()
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for number, descriptor in enumerate(descriptors, 1):
                    os.dup2(descriptor, number)
                    os.close(descriptor)
                sys.argv = ["amaru", *told["start"]]
                amaru_main()
                return
            for descriptor in descriptors:
                os.close(descriptor)
        with contextlib.suppress(BrokenPipeError):
            control.send(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
