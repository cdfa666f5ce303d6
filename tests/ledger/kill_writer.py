"""Kills writers of a log and looks at what they leave; a program of its own, so that it may fork.

    python kill_writer.py random FOLDER KILLS SEED      kills after a random time, each time the same log goes on
    python kill_writer.py instants FOLDER STEP          kills before, then within or after, every STEP-th system call
    python kill_writer.py reopened FOLDER STEP          the same, of a writer that comes back to a log that was killed

Prints how many writers it killed; exits with a traceback where a log lost what it had acknowledged, or was not sound.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from log_samples import KEY, assert_holds, leaves, make_leaf, open_log

from amaru.ledger.audit import audit
from amaru.ledger.log import Log
from amaru.ledger.tile_store import FolderStore

SETTLE_BYTES = 30_000
CALLS = ("write", "fsync", "fdatasync", "ftruncate", "rename", "replace", "link", "unlink", "rmdir", "open", "mkdir")


def write_for_ever(log: Log, acknowledge: Callable[[int], None], choose: random.Random) -> None:
    while True:
        count = choose.choice((1, 1, 1, 3, 40, 300))
        first = log.committed
        log.commit(leaves(first, first + count))
        acknowledge(first + count)
        if choose.random() < 0.3:
            log.publish()


def scenario(log: Log, acknowledge: Callable[[int], None]) -> None:
    """A little of everything: partial tiles, full ones, settling twice."""
    for count in (1, 2, 250, 1, 3, 300, 1):
        first = log.committed
        log.commit(leaves(first, first + count))
        acknowledge(first + count)
        if count != 2:
            log.publish()
        if count == 3:
            log.settle()
    log.close()


def killed_log(root: Path) -> int:
    """A log as a killed writer leaves it: settled, then published, then committed; how much was acknowledged."""
    log = open_log(root, settle_bytes=SETTLE_BYTES)
    log.append(leaves(0, 300))
    log.settle()
    log.append(leaves(300, 560))
    log.commit(leaves(560, 565))
    log.store.release()
    return 565


def come_back(log: Log, acknowledge: Callable[[int], None]) -> None:
    size = log.committed
    log.commit(leaves(size, size + 300))
    acknowledge(size + 300)
    log.close()


def forked(work: Callable[[Callable[[int], None]], None]) -> tuple[int, int]:
    """A child that does the work; its process id, and a pipe of what it acknowledges."""
    out, into = os.pipe()
    child = os.fork()
    if child:
        os.close(into)
        return child, out
    os.close(out)
    system_write = os.write  # before anything counts or kills
    try:
        work(lambda size: system_write(into, size.to_bytes(8, "big")) and None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def last_acknowledged(pipe: int, floor: int) -> int:
    content = b""
    while piece := os.read(pipe, 1 << 16):
        content += piece
    os.close(pipe)
    return int.from_bytes(content[-8:], "big") if content else floor


def look(root: Path, acknowledged: int) -> int:
    """Audit what is there as it is, then open it; returns its size."""
    if (root / "checkpoint").exists():
        report = audit(FolderStore(root), [KEY.verifier])
        assert report.sound, report.findings  # what a killed writer published last, it keeps once it is back
    with open_log(root, settle_bytes=SETTLE_BYTES) as log:
        size = log.committed
        assert size >= acknowledged, f"{acknowledged} were acknowledged, {size} are there"
        assert_holds(log, leaves(0, size))
        log.append([make_leaf(size)])
    report = audit(FolderStore(root), [KEY.verifier])
    assert report.ok, report.findings
    return size + 1


def kill_at_random(root: Path, kills: int, seed: int) -> int:
    choose = random.Random(seed)
    size = 0
    for kill in range(kills):
        if size > 3_000:  # looking at it all each time is what takes long
            shutil.rmtree(root)
            size = 0

        def work(acknowledge: Callable[[int], None], kill: int = kill) -> None:
            write_for_ever(open_log(root, settle_bytes=SETTLE_BYTES), acknowledge, random.Random(seed + kill))

        child, pipe = forked(work)
        time.sleep(choose.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        size = look(root, last_acknowledged(pipe, size))
    return kills


def kill_at_call(number: int, half: bool) -> None:
    """Have this process killed at its call of this number, where ``half`` halfway through what it writes."""
    calls = itertools.count(1)  # several threads flush, and each call must have a number of its own

    def counted(name: str) -> Callable[..., object]:
        system = getattr(os, name)

        def call(*arguments: object, **more: object) -> object:
            if next(calls) == number:
                with contextlib.suppress(OSError):
                    if half and name == "write":
                        system(arguments[0], arguments[1][: len(arguments[1]) // 2])  # type: ignore[index, arg-type]
                    elif half:
                        system(*arguments, **more)
                os.kill(os.getpid(), signal.SIGKILL)
            return system(*arguments, **more)

        return call

    for name in CALLS:
        setattr(os, name, counted(name))


def kill_at_every_call(root: Path, step: int, before: Path, acknowledged: int) -> int:
    """Kill a writer that finds what is ``before``, of which so much was acknowledged; a new log where nothing is."""
    run = come_back if acknowledged else scenario
    kills = 0
    for half in (False, True):
        number = 1
        while True:
            shutil.rmtree(root, ignore_errors=True)
            if acknowledged:
                shutil.copytree(before, root)

            def work(acknowledge: Callable[[int], None], number: int = number, half: bool = half) -> None:
                kill_at_call(number, half)
                run(open_log(root, settle_bytes=SETTLE_BYTES), acknowledge)

            child, pipe = forked(work)
            _, status = os.waitpid(child, 0)
            look(root, last_acknowledged(pipe, acknowledged))
            if os.WIFEXITED(status):
                assert os.WEXITSTATUS(status) == 0
                break
            kills += 1
            number += step
    return kills


if __name__ == "__main__":
    how, folder, *rest = sys.argv[1:]
    if how == "random":
        print(kill_at_random(Path(folder), int(rest[0]), int(rest[1])))
    else:
        killed = Path(f"{folder} killed")
        print(kill_at_every_call(Path(folder), int(rest[0]), killed, killed_log(killed) if how == "reopened" else 0))
