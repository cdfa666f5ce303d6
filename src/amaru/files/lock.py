"""A lock that one process holds, and that the kernel lets go of when it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def lock_file(path: Path) -> int | None:
    """Lock the file at ``path``, made for its owner alone where it is not there: its handle, which holds the lock.

    ``None``: another process has it. The file stays when its process ends, the lock does not. Raises OSError.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
