"""Time of one update of an offer's health, of reading it, and the memory of an offer.

python benchmarks/health_speed.py [--offers 100] [--updates 20000] [--rounds 5]

Observations are made before the clock starts: answers of a usual variety and one failure in twenty, over many offers in
turn. The median of the rounds is printed with the least and the most; the process is pinned to one core.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Callable

from wargame_page import machine_words

from amaru.domain import FailureKind, Kind
from amaru.health.observation import Observation, Sample
from amaru.health.sample import sample_of
from amaru.health.signature import Signatures
from amaru.health.signature_kernels import observe
from amaru.simulation.text import prompt_text

TARGET_US = 5.0
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"large","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"%s"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,'
    b'"completion_tokens":250,"total_tokens":259}}'
)


def main() -> int:
    """Measure and print; 1 where an update takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--offers", type=int, default=100)
    parser.add_argument("--updates", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])

    seen = observations(arguments.offers, arguments.updates)
    signatures = Signatures()
    for one in seen:
        signatures.observe(one)
    now = seen[-1].at
    rows = signatures._rows
    offers = signatures.offers
    row = (rows.figures, rows.tracks, rows.bins, rows.marks)
    text = prompt_text(250, random.Random(1))
    body = ANSWER % text.encode()

    def kernel() -> int:
        for n in range(arguments.updates):
            observe(
                n % len(offers), now, 0, 0, True, False, False, True, True, 900.0, 200.0, 120.0, 480, 0, 0.0, True, 1,
                False, 0.01, n + 1, n + 1, *row,
            )  # fmt: skip
        return arguments.updates

    def whole() -> int:
        for one in seen:
            signatures.observe(one)
        return len(seen)

    def read(look: Callable[[str, float], object]) -> Callable[[], int]:
        def work() -> int:
            for offer in offers:
                look(offer, now)
            return len(offers)

        return work

    def sampled() -> int:
        for _ in range(500):
            sample_of(Kind.CHAT, body, [text], b"salt", 1)
        return 500

    measured = {
        "update: the compiled part, called from Python": times_us(kernel, arguments.rounds),
        "update: `Signatures.observe`, whole": times_us(whole, arguments.rounds),
        "`Signatures.features` of one offer": times_us(read(signatures.features), arguments.rounds),
        "`Signatures.view` of one offer": times_us(read(signatures.view), arguments.rounds),
        f"`sample_of` an answer of {len(body)} bytes": times_us(sampled, arguments.rounds),
    }
    print(f"{arguments.offers} offers, {arguments.rounds} rounds. Machine: {machine_words()}.\n")
    print("| | median us | least | most |\n|---|---:|---:|---:|")
    for name, found in measured.items():
        print(f"| {name} | {statistics.median(found):.2f} | {min(found):.2f} | {max(found):.2f} |")
    per_offer = sum(array[0].nbytes for array in row)
    print(
        f"\nArrays of one offer: {per_offer} bytes; state of all: {len(signatures.state()) // len(offers)} bytes each."
    )
    return int(statistics.median(measured["update: `Signatures.observe`, whole"]) > TARGET_US)


def observations(offers: int, count: int) -> list[Observation]:
    """Of usual variety, a tenth of a second apart."""
    rng = random.Random(1)
    made = []
    for n in range(count):
        tokens = max(1, round(120 * math.exp(0.7 * rng.gauss(0, 1))))
        failed = rng.random() < 0.05
        made.append(
            Observation(
                offer=f"provider-{n % offers % 10}/model-{n % offers}",
                provider=f"provider-{n % offers % 10}",
                at=1.7e9 + 0.1 * n,
                ok=not failed,
                failure=FailureKind.SERVER_ERROR if failed else None,
                stream=True,
                latency_ms=200.0 + 15.0 * tokens,
                first_token_ms=200.0 * math.exp(0.3 * rng.gauss(0, 1)),
                output_tokens=tokens,
                output_chars=4 * tokens,
                finish_reason="stop",
                sample=Sample(shape=rng.randint(1, 3), digest=rng.getrandbits(62) | 1, prompt=rng.getrandbits(62) | 1),
            )
        )
    return made


def times_us(work: Callable[[], int], rounds: int) -> list[float]:
    """Microseconds of one piece of work, by round; a first round is not counted."""
    found = []
    for _ in range(rounds + 1):
        began = time.thread_time()
        done = work()
        found.append((time.thread_time() - began) / done * 1e6)
    return found[1:]


if __name__ == "__main__":
    sys.exit(main())
