"""The fault matrix: every failure at every point of a request, through amaru and through LiteLLM's proxy.

python benchmarks/fault_matrix.py [--gateways amaru,litellm] [--only cut,stall] [--lanes 6] [--json FILE]
                                  [--write docs/explanation/fault-matrix.md]

Both gateways are processes of their own, in front of the same simulated providers, with the same time limits, and both
are asked for the same things by the same client (`amaru.readiness.fault_matrix`). Each cell has a model, and so a
breaker or a cool-down, of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import yaml

sys.path.insert(0, str(Path(__file__).parent))

import fault_matrix_table as table
import peers as p
import rig

from amaru import __version__
from amaru.readiness.fault_matrix import (
    PROVIDER_MODEL,
    Cell,
    Lane,
    Outcome,
    Placement,
    Target,
    cells,
    in_words,
    profile,
    references,
    run,
)
from amaru.readiness.fault_matrix_cases import Way, all_cases
from amaru.readiness.fault_matrix_reading import Shape, body_of
from amaru.simulation import SimulatedProvider

LIMIT_S = 2.0
"""Of both gateways: for a first token, for a silence inside a stream, and for a whole answer."""
PATIENCE_S = 30.0
"""Of the client, beyond what either gateway may need for all its attempts."""
TOKEN_MS = 12.0
"""The pace of the providers: a fault in the middle strikes some 200 ms after the first content."""
READY = "ready"
"""A model whose provider is always well, by which a gateway shows that it serves."""


def amaru(folder: Path, port: int, wanted: list[Cell], lanes: list[Lane]) -> p.Peer:
    """amaru, authenticating, recording and measuring; limits apart, its defaults."""
    providers = {
        provider.profile.name: {"base_url": provider.base_url} for lane in lanes for provider in lane.providers
    }
    capabilities = ["stream", "tools", "json_schema", "prefill"]
    offers = [
        {
            "provider": provider.profile.name,
            "resource": model,
            "model": PROVIDER_MODEL,
            "capabilities": capabilities,
            "price": {"input_usd_per_mtok": price, "output_usd_per_mtok": price},
        }
        for model, asked in models(wanted, lanes)
        for price, provider in enumerate(asked, 1)
    ]
    config = {
        "version": 1,
        "server": {"host": "127.0.0.1", "port": port},
        "providers": providers,
        "offers": offers,
        "tenants": {
            "bench": {"keys": [{"sha256": hashlib.sha256(p.KEY.encode()).hexdigest()}], "weights": {"price": 1}}
        },
        # Sensed, but not acted upon: a cell is what one request meets, whatever those before it met.
        "health": {"healing": "off", "prediction": False},
        "stability": {"guardian": False},
        "routing": {
            "first_token_ms": LIMIT_S * 1e3,
            "idle_ms": LIMIT_S * 1e3,
            "answer_ms": LIMIT_S * 1e3,
            # The matrix is all failures: a budget for the failures of ordinary traffic would be used up at once.
            "retry_budget": {"ratio": 1.0, "min_per_s": 10_000},
        },
        "storage": {"path": str(folder / "amaru.db")},
        "logging": {"level": "error"},
    }
    file = folder / "amaru.yaml"
    file.write_text(yaml.safe_dump(config))
    binary = Path(__file__).parent.parent / ".venv/bin/amaru"
    return p.Peer("amaru", [str(binary), "serve", "--config", str(file)], port, {"authorization": f"Bearer {p.KEY}"})


def litellm(folder: Path, port: int, wanted: list[Cell], lanes: list[Lane]) -> p.Peer:
    """LiteLLM's proxy: two deployments of one model group, the second taking over by `order`; retries and limits."""
    deployments = []
    for model, asked in models(wanted, lanes):
        for order, provider in enumerate(asked, 1):
            deployments.append(
                {
                    "model_name": model,
                    "litellm_params": {
                        "model": f"openai/{PROVIDER_MODEL}",
                        "api_base": provider.base_url,
                        "api_key": "none",
                        "order": order,
                        "timeout": LIMIT_S,
                        "stream_timeout": LIMIT_S,
                    },
                }
            )
    config = {
        "model_list": deployments,
        "router_settings": {"num_retries": 2},
        "litellm_settings": {"telemetry": False, "set_verbose": False},
        "general_settings": {"master_key": p.KEY, "disable_spend_logs": True},
    }
    file = folder / "litellm.yaml"
    file.write_text(yaml.safe_dump(config))
    argv = [str(p.PEERS / "litellm/bin/litellm"), "--config", str(file), "--port", str(port), "--host", "127.0.0.1"]
    env = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    return p.Peer("LiteLLM", argv, port, {"authorization": f"Bearer {p.KEY}"}, env=env, ready_s=300.0)


GATEWAYS = {"amaru": amaru, "litellm": litellm}


def models(wanted: list[Cell], lanes: list[Lane]) -> list[tuple[str, tuple[SimulatedProvider, ...]]]:
    """Each model that is asked for, and the providers that serve it, in order."""
    found: list[tuple[str, tuple[SimulatedProvider, ...]]] = [(READY, lanes[0].providers[:1])]
    for cell in wanted:
        providers = lanes[cell.number % len(lanes)].providers
        alone = cell.placement in (Placement.ALONE, Placement.ONCE)
        found.append((cell.model, providers[:1] if alone else providers))
    return found


def versions() -> dict[str, str]:
    """What is compared, with its version."""
    python = p.PEERS / "litellm/bin/python"
    ask = "import importlib.metadata as m; print(m.version('litellm'))"
    told = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=False).stdout.strip()
    describe = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "amaru": f"amaru {__version__} ({commit})" if commit else f"amaru {__version__}",
        "LiteLLM": f"LiteLLM {told}",
    }


async def measure(name: str, wanted: list[Cell], arguments: argparse.Namespace, folder: Path) -> list[Outcome]:
    """All cells through one gateway."""
    async with contextlib.AsyncExitStack() as stack:
        lanes = []
        for number in range(arguments.lanes):
            first = await stack.enter_async_context(SimulatedProvider(profile(f"first{number}", token_ms=TOKEN_MS)))
            second = await stack.enter_async_context(SimulatedProvider(profile(f"second{number}", token_ms=TOKEN_MS)))
            lanes.append(Lane(first, second))
        peer = GATEWAYS[name](folder, 9400 + list(GATEWAYS).index(name), wanted, lanes)
        if not p.installed(peer):
            raise SystemExit(f"{peer.name} is not installed (benchmarks/install_peers.sh)")
        answers = await references(lanes[0])
        ready = body_of(Shape.TEXT, READY, Way.WHOLE).decode()
        started = time.perf_counter()
        # In a thread, since the providers that it asks live in this event loop.
        processes = contextlib.ExitStack()
        stack.push_async_callback(asyncio.to_thread, processes.close)
        process = await asyncio.to_thread(processes.enter_context, rig.gateway(peer, folder, ready))
        print(f"{peer.name} ready after {time.perf_counter() - started:.0f} s", file=sys.stderr)
        target = Target(f"http://127.0.0.1:{peer.port}/v1", tuple(peer.headers.items()))
        progress = Progress(peer.name, len(wanted), arguments.verbose)

        def on_outcome(outcome: Outcome) -> None:
            progress(outcome)
            if process.poll() is not None:  # what follows would be judged as its answers
                said = (folder / f"{peer.name}.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{peer.name} ended with status {process.returncode}; its last words: {said}")

        return await run(wanted, lanes, target, answers, patience_s=PATIENCE_S, on_outcome=on_outcome)


class Progress:
    """Says how far it is, on standard error."""

    def __init__(self, name: str, total: int, verbose: bool) -> None:
        self._name, self._total, self._verbose = name, total, verbose
        self._done = 0
        self._started = time.perf_counter()

    def __call__(self, outcome: Outcome) -> None:
        self._done += 1
        if self._verbose:
            print(in_words(outcome), file=sys.stderr)
        elif self._done % 100 == 0 or self._done == self._total:
            seconds = time.perf_counter() - self._started
            print(f"{self._name}: {self._done} of {self._total} cells after {seconds:.0f} s", file=sys.stderr)


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateways", default=",".join(GATEWAYS))
    parser.add_argument("--only", help="kinds of faults, such as cut,stall")
    parser.add_argument("--lanes", type=int, default=6, help="cells under way at once")
    parser.add_argument("--verbose", action="store_true", help="a line for each cell")
    parser.add_argument("--json", type=Path, help="all outcomes")
    parser.add_argument("--read", type=Path, help="outcomes of an earlier run, instead of a new one")
    parser.add_argument("--write", type=Path, help="the page whose tables are to be replaced")
    arguments = parser.parse_args()
    read: Path | None = arguments.read
    found = measured(arguments) if read is None else msgspec.json.decode(read.read_bytes(), type=table.Run)
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.encode(found))
    text = table.rendered(found)
    if arguments.write:
        table.write_between_markers(arguments.write, text)
    else:
        print(text)
    return 0


def measured(arguments: argparse.Namespace) -> table.Run:
    """Run the matrix through every gateway, one after the other."""
    rig.clean_up_on_sigterm()
    only = arguments.only.split(",") if arguments.only else None
    wanted = cells(case for case in all_cases() if only is None or case.fault.kind in only)
    outcomes: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="amaru-bench-") as name:
        for gateway in arguments.gateways.split(","):
            found = asyncio.run(measure(gateway, wanted, arguments, Path(name)))
            outcomes[{"amaru": "amaru", "litellm": "LiteLLM"}[gateway]] = found
    return table.Run(
        outcomes=outcomes,
        versions=versions(),
        machine=rig.machine(),
        day=time.strftime("%Y-%m-%d"),
        limit_s=LIMIT_S,
        patience_s=PATIENCE_S,
        lanes=arguments.lanes,
    )


if __name__ == "__main__":
    sys.exit(main())
