"""The gateway beside its peers, on the same machine, in the same run.

python benchmarks/serving.py [--rounds 3] [--seconds 4] [--only whole,stream,tls,latency] [--peers amaru,nginx,…]
                             [--before CHECKOUT] [--policies hybrid] [--ledger] [--accounts] [--workers 2]

With --before another checkout of amaru (git worktree add /somewhere COMMIT) runs as the peer "amaru before", so that a
change is measured beside what it changes; with --ledger amaru with the ledger on runs beside amaru, with --accounts
amaru with a key of the store, budgets and limits. Each such variant is held against amaru round by round, every other
round in the opposite order: what a machine does meanwhile befalls both. With --workers N nothing but amaru runs, by one
worker and by N (``workers.py``).
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import peers as p
import rig
import workers

Build = Callable[[Path, str, int], p.Peer]
BUILDERS: dict[str, Build] = {
    "nginx": p.nginx,
    "amaru": p.amaru,
    "sglang-router": p.sglang_router,
    "vllm-router": p.vllm_router,
    "portkey": p.portkey,
    "litellm": p.litellm,
}
SCENARIOS = {
    "whole": ("Whole answers, 32 connections, requests/s", rig.WHOLE_PORT, False, 32),
    "stream": (f"Streams of {rig.CHUNKS} chunks, 32 connections, streams/s", rig.STREAM_PORT, True, 32),
    "tls": ("Whole answers over TLS to the upstream, 32 connections, requests/s", rig.TLS_PORT, False, 32),
    "latency": ("Whole answers, one connection: added latency over the bare upstream, ms", rig.WHOLE_PORT, False, 1),
}


def main() -> int:
    """Run and print; 1 where a peer could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--only", default=",".join(SCENARIOS))
    parser.add_argument("--peers", default=",".join(BUILDERS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--policies", default="", help="also amaru by these, such as hybrid,thompson")
    parser.add_argument("--ledger", action="store_true", help="also amaru with the ledger on")
    parser.add_argument("--accounts", action="store_true", help="also amaru with keys, budgets and limits on")
    parser.add_argument("--workers", type=int, default=1, help="measure so many beside one, and nothing else")
    arguments = parser.parse_args()
    if arguments.before is not None:
        BUILDERS["amaru before"] = functools.partial(p.amaru, name="amaru before", source=arguments.before)
        arguments.peers += ",amaru before"
    for policy in filter(None, arguments.policies.split(",")):
        BUILDERS[f"amaru {policy}"] = functools.partial(p.amaru, name=f"amaru {policy}", policy=policy)
        arguments.peers += f",amaru {policy}"
    if arguments.ledger:
        BUILDERS["amaru ledger"] = functools.partial(p.amaru, name="amaru ledger", ledger=True)
        arguments.peers += ",amaru ledger"
    if arguments.accounts:
        BUILDERS["amaru accounts"] = functools.partial(p.amaru, name="amaru accounts", accounts=True)
        arguments.peers += ",amaru accounts"
    rig.clean_up_on_sigterm()
    print(f"Machine: {rig.machine()}")
    print("Gateway pinned to core 0; wrk and the fixed-answer upstream (nginx) share core 1.\n")
    results: dict[str, dict[str, list[rig.Load]]] = {}
    with tempfile.TemporaryDirectory(prefix="amaru-bench-") as name:
        folder = Path(name)
        with rig.upstream(folder):
            if arguments.workers > 1:
                for policy in filter(None, (arguments.policies or "rules").split(",")):
                    workers.compare(
                        arguments.workers,
                        rounds=arguments.rounds,
                        seconds=arguments.seconds,
                        folder=folder,
                        policy=policy,
                    )
                return 0
            for scenario in arguments.only.split(","):
                results[scenario] = measure(scenario, arguments, folder)
                report(scenario, results[scenario])
                report_variants(scenario, results[scenario])
    if arguments.json:
        arguments.json.write_text(
            json.dumps({s: {k: [vars(x) for x in v] for k, v in r.items()} for s, r in results.items()})
        )
    return 0


def measure(scenario: str, arguments: argparse.Namespace, folder: Path) -> dict[str, list[rig.Load]]:
    """Rounds of every peer, interleaved."""
    _, port, stream, connections = SCENARIOS[scenario]
    scheme = "https" if scenario == "tls" else "http"
    upstream = f"{scheme}://127.0.0.1:{port}"
    body = rig.body_of(stream)
    found: dict[str, list[rig.Load]] = {}
    names = arguments.peers.split(",")
    if scenario == "tls":
        names = [n for n in names if n == "nginx" or n.split()[0] == "amaru"]
    for number in range(arguments.rounds):
        if connections == 1:
            bare = p.Peer("bare upstream", [], port)
            found.setdefault(bare.name, []).append(
                rig.load(bare, folder, body=body, connections=1, seconds=arguments.seconds)
            )
        for offset, peer_name in list(enumerate(names))[:: -1 if number % 2 else 1]:
            kwargs = {"ca": folder / "cert.pem"} if scenario == "tls" and peer_name.startswith("amaru") else {}
            peer = BUILDERS[peer_name](folder, upstream, 9300 + offset, **kwargs)
            if not p.installed(peer):
                print(f"  {peer.name}: not installed (benchmarks/install_peers.sh)")
                continue
            try:
                with rig.gateway(peer, folder, body) as process:
                    rig.load(peer, folder, body=body, connections=connections, seconds=2)
                    loaded = rig.load(
                        peer,
                        folder,
                        body=body,
                        connections=connections,
                        seconds=arguments.seconds,
                        process=process,
                    )
            except RuntimeError as error:
                print(f"  {peer.name}: {error}")
                continue
            found.setdefault(peer.name, []).append(loaded)
    return found


def report(scenario: str, found: dict[str, list[rig.Load]]) -> None:
    """A table: the median with least and most."""
    print(f"## {SCENARIOS[scenario][0]}\n")
    if scenario == "latency":
        bare = statistics.median(x.p50_ms for x in found["bare upstream"])
        print("| gateway | p50 ms | added p50 ms | p99 ms |\n|---|---|---|---|")
        for name, loads in found.items():
            p50 = statistics.median(x.p50_ms for x in loads)
            p99 = statistics.median(x.p99_ms for x in loads)
            print(f"| {name} | {p50:.3f} | {p50 - bare:.3f} | {p99:.3f} |")
    else:
        print(
            "| gateway | median | least | most | p99 ms | CPU, µs a request | errors |\n|---|---|---|---|---|---|---|"
        )
        for name, loads in sorted(found.items(), key=lambda kv: -statistics.median(x.requests_per_s for x in kv[1])):
            rates = [x.requests_per_s for x in loads]
            p99, cpu = (statistics.median(getattr(x, which) for x in loads) for which in ("p99_ms", "cpu_us"))
            print(
                f"| {name} | {statistics.median(rates):,.0f} | {min(rates):,.0f} | {max(rates):,.0f} | {p99:.1f} "
                f"| {cpu:.1f} | {sum(x.errors for x in loads)} |"
            )
    print(flush=True)


def report_variants(scenario: str, found: dict[str, list[rig.Load]]) -> None:
    """Each variant of amaru beside amaru in the same rounds: the median, with least and most."""
    plain = found.get("amaru", [])
    variants = {name: loads for name, loads in found.items() if name.startswith("amaru ") and len(loads) == len(plain)}
    if not variants or not plain:
        return
    what = {"added p50, ms": lambda one, other: one.p50_ms - other.p50_ms}
    if scenario != "latency":
        what = {
            "throughput / amaru's": lambda one, other: one.requests_per_s / other.requests_per_s,
            "CPU a request / amaru's": lambda one, other: one.cpu_us / other.cpu_us,
        }
    print("| beside amaru, round by round | what | median | least | most |\n|---|---|---|---|---|")
    for name, loads in variants.items():
        for words, figure in what.items():
            figures = [figure(one, other) for one, other in zip(loads, plain, strict=True)]
            print(f"| {name} | {words} | {statistics.median(figures):.3f} | {min(figures):.3f} | {max(figures):.3f} |")
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
