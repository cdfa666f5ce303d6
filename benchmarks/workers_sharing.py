"""What it costs a request that workers share what they know: in shared memory, or by asking one owner.

python benchmarks/workers_sharing.py [--rounds 20000]

Prints, in microseconds a request: taking a place, observing a success and giving the place back on a board of one's
own; on one in shared memory; and what asking an owner process would add, which has to be asked before the call
(is there a place?) and told after it (what came of it): a round trip over a Unix socket, and a message without answer.
Last, what a request of a conversation costs besides, in shared memory: it is looked up before, and its turn is put
there after the answer.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import socket
import statistics
import time
from collections.abc import Callable

from amaru.domain import Offer, Price
from amaru.routing.board import Board
from amaru.routing.conversation import Turn, after, key_of, mark_of
from amaru.routing.conversation_table import ConversationTable
from amaru.routing.shared import Memory
from amaru.routing.shared_live import SharedSlab

ASK_BYTES = 64
KEY = key_of(b"s" * 32, "tenant", "conversation")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20_000)
    rounds = parser.parse_args().rounds
    offers = [Offer(id=f"p{i}/m", provider=f"p{i}", resource="m", model="m", price=Price()) for i in range(3)]
    memory = Memory.create(2)
    own = Board(offers, {}, rng=random.Random(1))
    shared = Board(offers, {}, slab=SharedSlab(Memory(os.dup(memory.file), 2, 0)), rng=random.Random(1))
    _turn(memory.conversations)
    near, far = socket.socketpair()
    owner = multiprocessing.Process(target=_answer, args=(far,), daemon=True)
    owner.start()
    measured = {
        "a board of its own": lambda: _request(own),
        "in shared memory": lambda: _request(shared),
        "asking an owner, beside that": lambda: _ask(near),
        "looking a conversation up": lambda: _look_up(memory.conversations),
        "putting its turn there": lambda: _turn(memory.conversations),
    }
    for name, work in measured.items():
        print(f"{name:30} {_micros(work, rounds):8.2f} us")
    owner.kill()


def _request(board: Board) -> None:
    now = time.monotonic()
    admission = board.admit(0, 100.0, now)
    assert admission is not None
    board.observe(admission, now, None, 100.0, 200.0, True)
    board.release(admission)


def _look_up(table: ConversationTable) -> None:
    table.get(key_of(b"s" * 32, "tenant", "conversation"))


def _turn(table: ConversationTable) -> None:
    turn = Turn(at=time.time(), cost_usd=0.01, offer=mark_of("p0/m"), prompt_tokens=500)
    table.change(KEY, lambda before: after(before, turn))


def _ask(near: socket.socket) -> None:
    near.send(b"a" * ASK_BYTES)
    near.recv(ASK_BYTES)
    near.send(b"o" * ASK_BYTES)


def _answer(far: socket.socket) -> None:
    """Answer what asks for a place; what tells of an outcome has none."""
    waiting = b""
    while data := far.recv(4096):
        waiting += data
        while len(waiting) >= ASK_BYTES:
            if waiting[:1] == b"a":
                far.send(waiting[:ASK_BYTES])
            waiting = waiting[ASK_BYTES:]


def _micros(work: Callable[[], None], rounds: int) -> float:
    """Median of ten turns, per call."""
    turns = []
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(rounds // 10):
            work()
        turns.append((time.perf_counter() - began) / (rounds // 10))
    return statistics.median(turns) * 1e6


if __name__ == "__main__":
    main()
