"""Watch amaru notice, name and heal what goes wrong with real (simulated) providers, live in this terminal.

Three providers serve one model behind one gateway; four clients talk to it without pause. One provider after another is
broken: the first begins to answer nothing, then one slows down in one of its API's two versions, then two fail together
that share a bridge. Nothing here is staged: the report is the one that ``amaru health`` shows, and what is done about
each is amaru's own choice.

    python examples/health_live.py            # about four minutes; Ctrl-C ends it
    python examples/health_live.py --quick    # half a minute, one incident, no live picture

It needs nothing but amaru: no key, no network.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
from pathlib import Path

from rich.console import Console
from rich.live import Live

from amaru.cli.health_view import picture
from amaru.config import load
from amaru.domain import Kind, Tenant
from amaru.errors import RequestError
from amaru.health.bridge import InfrastructureMetricsBridge
from amaru.health.consciousness import InfrastructureConsciousness
from amaru.mesh import Call, Mesh
from amaru.protocols.openai import parse_request
from amaru.providers.base import WholeReply
from amaru.simulation import Fault, Latency, ProviderProfile, SimulatedProvider
from amaru.storage import DecisionStore, StoreSettings
from amaru.telemetry.metrics import Metrics

NAMES = ("anvil", "birch", "cobalt")
CONFIG = """
version: 1
server: {{auth: none}}
providers:
  anvil: {{base_url: "{anvil}/v1", alternates: [{{base_url: "{anvil}/v2"}}], labels: {{bridge: axelar}}}}
  birch: {{base_url: "{birch}/v1", alternates: [{{base_url: "{birch}/v2"}}], labels: {{bridge: axelar}}}}
  cobalt: {{base_url: "{cobalt}/v1", alternates: [{{base_url: "{cobalt}/v2"}}], labels: {{bridge: wormhole}}}}
offers:
  - {{provider: anvil, resource: sim, model: sim-model, price: {{input_usd_per_mtok: 1, output_usd_per_mtok: 2}}}}
  - {{provider: birch, resource: sim, model: sim-model, price: {{input_usd_per_mtok: 2, output_usd_per_mtok: 3}}}}
  - {{provider: cobalt, resource: sim, model: sim-model, price: {{input_usd_per_mtok: 3, output_usd_per_mtok: 4}}}}
routing: {{exploration: 0.1, answer_ms: 5000}}
stability: {{every_s: 2}}
storage: {{path: demo.db}}
"""
INCIDENTS = {
    "anvil answers nothing": {"anvil": Fault(kind="empty_text")},
    "birch slows down under /v1": {"birch": Fault(kind="slow", factor=8.0, version="v1")},
    "anvil and birch fail now and then, together": {
        name: Fault(kind="status", status=500, probability=0.3) for name in ("anvil", "birch")
    },
}
"""What is broken, one after another."""


async def talk(mesh: Mesh, client: int, stop: asyncio.Event) -> None:
    """One client: asks, waits for the answer, asks again."""
    number = 0
    while not stop.is_set():
        number += 1
        prompt = f"Client {client} asks question {number}: what is {number} times {client + 2}?"
        body = b'{"model": "sim", "max_tokens": 40, "messages": [{"role": "user", "content": "%b"}]}' % prompt.encode()
        call = Call(Tenant("demo"), parse_request(Kind.CHAT, body), mesh.clock())
        execution = mesh.begin(call)
        try:
            reply = await execution.run()
            assert isinstance(reply, WholeReply)
        except RequestError:  # counted by the mesh: the unified report shows how many
            pass
        finally:
            execution.settle()
        await asyncio.sleep(0.05)


async def demonstrate(*, quick: bool) -> None:
    """Start everything, break it bit by bit, and show what amaru makes of it."""
    calm_s, ill_s, well_s = (14.0, 10.0, 0.0) if quick else (20.0, 25.0, 45.0)  # a drain lasts 40 s
    incidents = dict(list(INCIDENTS.items())[:1]) if quick else INCIDENTS
    console = Console()
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        profiles = [ProviderProfile(name=name, latency=Latency(ttft_ms=30, itl_ms=0.5)) for name in NAMES]
        providers = {one.name: await stack.enter_async_context(SimulatedProvider(one, seed=7)) for one in profiles}
        (folder / "amaru.yaml").write_text(CONFIG.format(**{name: one.url for name, one in providers.items()}))
        store = DecisionStore(StoreSettings(path=folder / "demo.db"))
        store.start()
        stack.push_async_callback(store.close)
        mesh = Mesh(load(folder / "amaru.yaml"), store, Metrics())
        stack.push_async_callback(mesh.aclose)
        mesh.sensing.start()

        watching = await stack.enter_async_context(InfrastructureConsciousness())
        await watching.start_monitoring(mesh)

        stop = asyncio.Event()
        clients = [asyncio.create_task(talk(mesh, number, stop)) for number in range(4)]

        async def show(headline: str, for_s: float) -> None:
            console.rule(headline)
            until = mesh.clock() + for_s
            if quick or not console.is_terminal:
                await asyncio.sleep(for_s)
                console.print(picture(await watching.generate_consciousness_report(), console.width), highlight=False)
                return
            with Live(console=console, auto_refresh=False) as live:
                while mesh.clock() < until:
                    live.update(picture(await watching.generate_consciousness_report(), console.width), refresh=True)
                    await asyncio.sleep(0.5)

        await show("all is well", calm_s)
        for headline, faults in incidents.items():
            for name, fault in faults.items():
                providers[name].faults.add(fault)
            await show(headline, ill_s)
            for name in faults:
                providers[name].faults.clear()
            if not quick:
                await show(f"{headline}: mended", well_s)

        stop.set()
        await asyncio.gather(*clients)
        mesh.record_ended()
        bridge = InfrastructureMetricsBridge(infrastructure=watching, metrics_collector=mesh.metrics)
        report = await bridge.generate_unified_report()
        console.rule("in the end")
        console.print(f"{report.traffic['requests']} requests, {report.served or 0.0:.2%} served")
        for insight in report.insights:
            console.print(f"- {insight}", highlight=False)
        for healing in mesh.sensing.acting.healer.actions():
            effect = "not measured" if healing.effect is None else f"{healing.effect:+.2f}"
            console.print(
                f"  {healing.kind.value} of {', '.join(healing.offers)}: {healing.reason}; effect {effect}; "
                f"{healing.ended or 'in force'}",
                highlight=False,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="half a minute, one incident")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(demonstrate(quick=parser.parse_args().quick))
