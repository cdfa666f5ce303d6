"""amaru alone: decisions a second, memory over many requests, and the time until it is ready.

python benchmarks/gateway.py [--only route,memory,ready] [--requests 200000]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import peers as p
import rig

OFFERS = 20
ROUTE = (
    f'{{"model":"{p.MODEL}","input_tokens":1000,"output_tokens":200,"max_price":100,'
    '"weights":{"price":0.5,"latency":0.3,"reputation":0.1,"availability":0.1},"explain":%s}'
)


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="route,memory,ready")
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    arguments = parser.parse_args()
    rig.clean_up_on_sigterm()
    print(f"Machine: {rig.machine()}")
    print("Gateway pinned to core 0; wrk and the fixed-answer upstream (nginx) share core 1.\n")
    with tempfile.TemporaryDirectory(prefix="amaru-bench-") as name:
        folder = Path(name)
        with rig.upstream(folder):
            for which in arguments.only.split(","):
                {"route": route, "memory": memory, "ready": ready}[which](folder, arguments)
    return 0


def route(folder: Path, arguments: argparse.Namespace) -> None:
    """``POST /agent/route`` over 20 offers: every one ranked with the parts of its score, stored, and in the answer."""
    peer = p.amaru(folder, f"http://127.0.0.1:{rig.WHOLE_PORT}", 9310, name="amaru-route", offers=OFFERS)
    print(f"## POST /agent/route, {OFFERS} offers, 32 connections\n")
    print("| answer | decisions/s (median) | least | most | p99 ms | errors |\n|---|---|---|---|---|---|")
    with rig.gateway(peer, folder, rig.body_of(False)):
        for explain, name in (("false", "figures"), ("true", "figures and words")):
            rig.load(peer, folder, body=ROUTE % explain, seconds=2, path="/agent/route")
            loads = [
                rig.load(peer, folder, body=ROUTE % explain, seconds=arguments.seconds, path="/agent/route")
                for _ in range(arguments.rounds)
            ]
            rates = [load.requests_per_s for load in loads]
            print(
                f"| {name} | {statistics.median(rates):,.0f} | {min(rates):,.0f} | {max(rates):,.0f} "
                f"| {statistics.median(load.p99_ms for load in loads):.1f} | {sum(load.errors for load in loads)} |",
                flush=True,
            )
    print()


def memory(folder: Path, arguments: argparse.Namespace) -> None:
    """Resident memory of the gateway while it serves ``--requests`` requests, recording each."""
    peer = p.amaru(folder, f"http://127.0.0.1:{rig.WHOLE_PORT}", 9311, name="amaru-memory")
    print(f"## Memory over {arguments.requests:,} requests\n\n| requests | resident MB |\n|---|---|")
    with rig.gateway(peer, folder, rig.body_of(False)) as process:
        served = 0.0
        print(f"| 0 | {resident_mb(process.pid):.1f} |", flush=True)
        while served < arguments.requests:
            load = rig.load(peer, folder, body=rig.body_of(False), seconds=5)
            served += load.requests_per_s * 5
            print(f"| {served:,.0f} | {resident_mb(process.pid):.1f} |", flush=True)
    print()


def resident_mb(pid: int) -> float:
    """Resident set size in MiB (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def ready(folder: Path, arguments: argparse.Namespace) -> None:
    """From starting the process to the first 200 of /health/ready, with a warm kernel cache."""
    times = []
    for round_ in range(arguments.rounds + 1):
        peer = p.amaru(folder, f"http://127.0.0.1:{rig.WHOLE_PORT}", 9320 + round_, name=f"amaru-ready-{round_}")
        started = time.perf_counter()
        with rig.running(peer.argv, rig.GATEWAY_CORE, folder / "ready.log", peer.env):
            rig.wait_for(f"http://127.0.0.1:{peer.port}/health/ready", 60.0)
            times.append(time.perf_counter() - started)
    warm = times[1:]  # the first may have compiled the kernels
    print("## Seconds until ready, one core\n\n| median | least | most |\n|---|---|---|")
    print(f"| {statistics.median(warm):.2f} | {min(warm):.2f} | {max(warm):.2f} |\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
