"""What a second worker adds on two cores, with load and upstream accounted for; part of ``serving.py --workers``.

On a machine of four cores or more, the workers have two of them for themselves, and what is served is compared. On two
cores the load and its upstream run on the workers' own cores; what is compared then is the CPU time that the gateway's
processes spend on a request: two cores of their own would serve twice as many requests as one where a request costs two
workers what it costs one.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import peers
import rig

READY_S = 60.0


def compare(workers: int, *, rounds: int, seconds: int, folder: Path, policy: str) -> None:
    """Rounds of one worker and of ``workers``, interleaved; prints a table and the ratio."""
    roomy = (os.cpu_count() or 1) >= 2 * workers
    found: dict[int, list[rig.Load]] = {1: [], workers: []}
    for number in range(rounds):
        for count in found if number % 2 == 0 else reversed(found):
            found[count].append(_run(count, number, seconds=seconds, folder=folder, policy=policy, roomy=roomy))
    print(f"## {workers} workers beside one, {policy}, 32 connections\n")
    print("| workers | requests/s | gateway's CPU µs a request | errors |\n|---|---|---|---|")
    for count, loads in found.items():
        rate = statistics.median(load.requests_per_s for load in loads)
        cost = statistics.median(load.cpu_us for load in loads)
        print(f"| {count} | {rate:,.0f} | {cost:.1f} | {sum(load.errors for load in loads)} |")
    one, many = (
        [load.requests_per_s if roomy else count / load.cpu_us for load in found[count]] for count in (1, workers)
    )
    ratios = [b / a for a, b in zip(one, many, strict=True)]
    how = "requests/s, the load on cores of its own" if roomy else "from CPU time: load and upstream share the cores"
    print(f"\nRatio {workers}/1: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}; {how})\n")


def _run(workers: int, number: int, *, seconds: int, folder: Path, policy: str, roomy: bool) -> rig.Load:
    upstream = f"http://127.0.0.1:{rig.WHOLE_PORT}"
    name = f"amaru x{workers}"
    peer = peers.amaru(folder, upstream, 9400 + 2 * number + (workers > 1), name=name, policy=policy, workers=workers)
    body = rig.body_of(stream=False)
    # One worker keeps its core, whatever the load does on the other; so do more where there are cores for all.
    cores = os.cpu_count() or 1
    own = ",".join(map(str, range(workers)))
    beside = ",".join(map(str, range(cores // 2, cores))) if roomy else rig.LOAD_CORE if workers == 1 else own
    with rig.gateway(peer, folder, body, cores=own) as process:
        _wait_for_all(folder / f"{name.replace(' ', '-')}.log")
        rig.load(peer, folder, body=body, seconds=2, cores=beside)
        return rig.load(peer, folder, body=body, seconds=seconds, process=process, cores=beside)


def _wait_for_all(log: Path) -> None:
    """Until every worker serves, which is said then; the first serves before the others do."""
    until = time.monotonic() + READY_S
    while "serves at" not in log.read_text(errors="replace"):
        if time.monotonic() > until:
            raise RuntimeError(f"not all workers serve; {log.read_text(errors='replace')[-800:]}")
        time.sleep(0.1)
