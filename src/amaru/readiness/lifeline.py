"""A child's tie to its parent: standard input, which ends when the parent does, however it ended.

The parent holds the other end of the child's standard input and never writes; the kernel closes it even after SIGKILL.
Linux' ``PR_SET_PDEATHSIG`` would need no thread, but it is Linux alone, follows the parent's *thread* instead of its
process, and misses a parent that died before it was set.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

GRACE_S = 10.0
"""Between SIGTERM and SIGKILL: nobody is left who could lose patience."""


def end_with_parent() -> None:
    """From now on, the end of standard input ends this process as SIGTERM does, and after ``GRACE_S`` as SIGKILL."""
    threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def _watch() -> None:
    with contextlib.suppress(OSError):
        # Not sys.stdin: a thread that waits inside its lock keeps the interpreter from ending.
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
