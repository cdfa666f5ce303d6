"""Kills schedulers while they anchor, and looks at what the next one makes of it; a program, so that it may fork.

    python kill_scheduler.py random FOLDER KILLS SEED      kills after a random time, a slot a round
    python kill_scheduler.py instants FOLDER STEP          kills at every STEP-th call to the system, a slot a call

Before each round the log grows and the clock moves on a slot. After each kill another process goes on, unharmed, at
the same time by the clock: then each slot must have one anchor beside the log and one in the folder, no more, no less.
Prints how many it killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from anchoring_world import NAME, START, AnchoringWorld, FakeTarget
from log_samples import make_leaf, open_log

from amaru.ledger.anchoring_state import Token
from amaru.ledger.anchoring_targets import Ask
from amaru.ledger.checkpoint import read_checkpoint

CALLS = ("write", "fsync", "rename", "replace", "unlink", "open", "mkdir", "ftruncate", "sync")


class Outside(FakeTarget):
    """A target that writes down each time it is asked, outside of what the scheduler keeps, and is never the same."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def ask(self, ask: Ask) -> Token:
        with (self.folder / "asked").open("ab") as file:
            file.write(f"{ask.slot} {read_checkpoint(ask.note).size}\n".encode())
        return Token("timestamp", f"{ask.slot} {os.urandom(8).hex()}".encode())

    def place(self, ask: Ask, token: Token) -> None:
        (self.folder / f"{ask.slot}.placed").write_bytes(token.content)


def work(folder: Path, now: float) -> None:
    """What a scheduler does at a time, until nothing more is due."""
    world = AnchoringWorld(folder, target=Outside(folder))
    world.now = now
    world.run_until(now + 1)
    world.states.close()


def forked(run: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        run()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def grow(folder: Path) -> None:
    with open_log(folder / "log") as log:
        log.append([make_leaf(log.size)])


def look(folder: Path, slots: list[int], kills: int) -> None:
    world = AnchoringWorld(folder)
    try:
        assert world.kept_slots() == slots, f"kept {world.kept_slots()}, not {slots}"
        for slot, stamp in zip(slots, world.kept(), strict=True):
            assert (folder / f"{slot}.placed").read_bytes() == stamp, f"{slot}: another token was placed"
        asked = [int(line.split()[0]) for line in (folder / "asked").read_text().splitlines()]
        assert len(asked) <= len(slots) + kills, f"asked {len(asked)} times for {len(slots)} slots and {kills} kills"
        world.line.step()
        assert world.line.state.pending is None
        assert not list((folder / "state").rglob("*.damaged"))
        assert world.states.held(NAME.namespace)
    finally:
        world.states.close()


def kill_at_random(folder: Path, enough: int, seed: int) -> int:
    choose = random.Random(seed)
    slots: list[int] = []
    kills = 0
    while kills < enough:
        now = START + 90 * len(slots)
        grow(folder)
        slots.append(int(now))
        for _ in range(choose.choice((1, 1, 2, 3))):
            child = forked(lambda now=now: work(folder, now))  # type: ignore[misc]  # mypy cannot type its default
            time.sleep(choose.uniform(0, 0.02))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            kills += os.WIFSIGNALED(status)
        settle(folder, now)
        look(folder, slots, kills)
    return kills


def kill_at_call(number: int, half: bool) -> None:
    """Have this process killed at its call of this number, where ``half`` after it."""
    calls = 0

    def counted(name: str) -> Callable[..., object]:
        system = getattr(os, name)

        def call(*arguments: object, **more: object) -> object:
            nonlocal calls
            calls += 1
            if calls == number:
                if half:
                    system(*arguments, **more)
                os.kill(os.getpid(), signal.SIGKILL)
            return system(*arguments, **more)

        return call

    for name in CALLS:
        setattr(os, name, counted(name))


def kill_at_every_call(folder: Path, step: int) -> int:
    slots: list[int] = []
    kills = 0
    for half in (False, True):
        number = 1
        while True:
            now = START + 90 * len(slots)
            grow(folder)
            slots.append(int(now))

            def run(now: float = now, number: int = number, half: bool = half) -> None:
                kill_at_call(number, half)
                work(folder, now)

            _, status = os.waitpid(forked(run), 0)
            killed = os.WIFSIGNALED(status)
            kills += killed
            settle(folder, now)
            look(folder, slots, kills)
            if not killed:
                assert os.WEXITSTATUS(status) == 0
                break
            number += step
    return kills


def settle(folder: Path, now: float) -> None:
    _, status = os.waitpid(forked(lambda: work(folder, now)), 0)
    assert os.WIFEXITED(status)
    assert os.WEXITSTATUS(status) == 0


if __name__ == "__main__":
    how, where, *rest = sys.argv[1:]
    if how == "random":
        print(kill_at_random(Path(where), int(rest[0]), int(rest[1])))
    else:
        print(kill_at_every_call(Path(where), int(rest[0])))
