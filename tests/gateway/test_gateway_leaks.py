"""Nothing leaks over 20,000 faulty requests: no connection, no descriptor, no task, no place, no memory.

Each case of the fault matrix has a resource of its own whose first offer fails in that way (three times of four, so
that breakers stay closed), whose second fails in another, and whose third is well, for most. Callers ask for all that
can be held, joined or begun anew, and some go away: before the answer, in its middle, at an error.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import psutil
import pytest
import uvloop
from gateway_world import KEY, PROVIDER_KEY, MakeWorld, World, until

from amaru.config import Config, load
from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.http1 import ServerSettings
from amaru.providers.h1 import H1Transport
from amaru.providers.transport import HeaderBlock, endpoint_from_url
from amaru.readiness.fault_matrix_cases import Case, Way, all_cases
from amaru.simulation import INSTANT, Fault, ProviderProfile

REQUESTS = 20_000
WARM_UP = 5_000
"""Memory is compared from here on: pools, caches and rings are full."""
CALLERS = 24
MOST_GROWTH_MB = 28.0
"""Over 15,000 requests: 2 KB for each would be seen. Two databases fill their caches meanwhile, of 8 MB each."""
RELOAD_EVERY = 500
"""Requests; a reload mends what only operators can mend (keys, quotas, names)."""

CASES = [case for case in all_cases() if case.fault.kind != "refuse"]
OF_CONNECTIONS = [case for case in CASES if case.fault.point == "connect"]
OF_ANSWERS = [case for case in CASES if case.fault.point != "connect"]
DOORS = {f"door{place}": case for place, case in enumerate(OF_CONNECTIONS)}
"""Faults of connections strike all models of a provider alike: one provider for each."""
WELL = "well"
OTHER = "other"
"""Gives other answers than the rest, which cannot be joined to theirs."""
SERVERS = 6
"""That share the cases: a simulated provider looks at all of its faults for each request."""
NAMES = (*(f"{order}{n}" for order in ("first", "second") for n in range(SERVERS)), "third", OTHER, *DOORS, "closed")
PACE = msgspec.structs.replace(INSTANT, itl_ms=1.0)
"""So that what comes before a fault in the middle is handed on when it strikes."""
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def model(place: int) -> str:
    return f"m{place}"


def server(order: str, place: int) -> str:
    """Who fails in the way of the case at ``place``, as the first or the second that is asked."""
    return f"{order}{place % SERVERS}"


def struck(case: Case, place: int) -> Fault:
    return msgspec.structs.replace(case.fault, model=model(place), probability=0.75, after_events=2)


def profile(name: str) -> ProviderProfile:
    """Of those that are asked second, and may be asked to continue, some do not."""
    habits: tuple[Literal["continue", "ignore", "reject"], ...] = ("continue", "ignore", "reject")
    return ProviderProfile(
        keys=(PROVIDER_KEY,),
        latency=PACE,
        models=(WELL, *(model(place) for place in range(len(OF_ANSWERS)))),
        prefill=habits[int(name[-1]) % len(habits)] if name.startswith("second") else "continue",
        answer_seed=int(name == OTHER),
    )


def offers() -> Iterator[dict[str, Any]]:
    """Three offers for each case; the last is missing for some, whose requests all end in errors."""
    firsts = [(server("first", place), model(place)) for place in range(len(OF_ANSWERS))]
    firsts += [(name, WELL) for name in (*DOORS, "closed")]
    for number, (first, its_model) in enumerate(firsts):
        other = (7 * number + 3) % len(OF_ANSWERS)
        asked = [(first, its_model), (server("second", other), model(other))]
        if number % 6:
            asked.append((OTHER if number % 4 == 0 else "third", WELL))
        for price, (provider, name) in enumerate(asked, 1):
            yield {
                "provider": provider,
                "resource": f"r{number}",
                "model": name,
                "kinds": ["chat", "completion"],
                "capabilities": ["stream", "tools", "json_schema", *(["prefill"] if number % 3 else [])],
                "price": {"input_usd_per_mtok": float(price), "output_usd_per_mtok": float(price)},
            }


RESOURCES = len(OF_ANSWERS) + len(DOORS) + 1


def requests(draw: random.Random, count: int) -> Iterator[tuple[bytes, bytes, bool]]:
    """Target, body, and whether the answer is to be held."""
    for number in range(count):
        place = number % RESOURCES
        case = OF_ANSWERS[place] if place < len(OF_ANSWERS) else None
        streams = draw.random() < 0.75 if case is None or len(case.ways) > 1 else case.ways == (Way.STREAM,)
        body: dict[str, Any] = {"model": f"r{place}", "max_tokens": 6, "stream": streams}
        target = b"/v1/chat/completions"
        kind = draw.choice(("text", "text", "text", "tools", "json", "choices", "hold", "completion", "usage"))
        if kind == "completion":
            target = b"/v1/completions"
            body["prompt"] = "Tell."
        else:
            body["messages"] = [{"role": "user", "content": "Tell."}]
        if kind == "tools":
            body |= {"tools": [TOOL], "tool_choice": "required"}
        elif kind == "json":
            body["response_format"] = {"type": "json_object"}
        elif kind == "choices":
            body["n"] = 2
        elif kind == "usage" and streams:
            body["stream_options"] = {"include_usage": True}
        yield target, json.dumps(body).encode(), kind == "hold"


class Crowd:
    """Callers side by side, each over a connection of its own; ``seen`` counts how their requests ended."""

    def __init__(self, port: int) -> None:
        self.seen: Counter[str] = Counter()
        self._transport = H1Transport(endpoint_from_url(f"http://127.0.0.1:{port}"))
        plain = [(b"authorization", b"Bearer " + KEY.encode()), (b"content-type", b"application/json")]
        self._headers = {
            False: HeaderBlock(plain),
            True: HeaderBlock([*plain, (b"x-amaru-rescue", b"hold")]),
        }

    async def ask(self, work: Iterator[tuple[bytes, bytes, bool]], draw: random.Random) -> None:
        """One caller after the other, until there is no more work."""
        for target, body, hold in work:
            mood = draw.random()
            if mood < 0.06:
                await self._leaves(target, body, hold, draw.uniform(0.0, 0.05))
            else:
                await self._reads(target, body, hold, in_part=mood < 0.12)

    async def _leaves(self, target: bytes, body: bytes, hold: bool, after_s: float) -> None:
        """Goes away after so long, wherever the answer is."""
        try:
            async with asyncio.timeout(after_s):
                await self._reads(target, body, hold)
        except TimeoutError:
            self.seen["left"] += 1

    async def _reads(self, target: bytes, body: bytes, hold: bool, *, in_part: bool = False) -> None:
        now = asyncio.get_running_loop().time()
        response = await self._transport.send(
            "POST", target, self._headers[hold], body, head_deadline=now + 60.0, head_kind=FailureKind.NO_ANSWER
        )
        response.set_deadline(now + 60.0, FailureKind.NO_ANSWER, "no answer in time")
        try:
            if in_part:
                await response.chunk()
                self.seen["left after a part"] += 1
                return
            self.seen[ending(response.status, await response.read(2**24), response.headers)] += 1
        except Failure as failure:
            self.seen[f"torn: {failure.kind.value}"] += 1
        finally:
            response.close()

    async def close(self) -> None:
        await self._transport.aclose()


def ending(status: int, body: bytes, headers: dict[bytes, bytes]) -> str:
    """How an answer ended, in words; a stream that is neither whole nor ends in an error is ``truncated``."""
    if status != 200:
        return "error status"
    if not headers[b"content-type"].startswith(b"text/event-stream"):
        return "whole answer"
    if body.endswith(b"data: [DONE]\n\n"):
        return "whole stream"
    return "error event" if b'\n\ndata: {"error":' in body else "truncated"


def objects() -> Counter[str]:
    """How many objects of each of amaru's classes there are."""
    gc.collect()
    names = Counter(f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.get_objects())
    return Counter({name: count for name, count in names.items() if name.startswith("amaru.")})


def resident_mb() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


def pools(world: World) -> list[H1Transport]:
    """The gateway's connections to each provider."""
    found = [provider._transport for provider in world.mesh.plan.providers.values()]  # type: ignore[attr-defined]
    assert all(isinstance(pool, H1Transport) for pool in found)
    return found


def server_connections(world: World) -> int:
    return world.gateway._server.connection_count


def strikes(world: World) -> Counter[str]:
    """How often each fault struck. Those that close a port are not counted by their provider."""
    hits: Counter[str] = Counter()
    for provider in world.providers.values():
        for active in provider.faults.active():
            if active.fault.kind != "refuse":
                hits[f"{active.fault.describe()} {active.fault.how or ''} {active.fault.model}"] += active.hits
    return hits


async def all_quiet(world: World) -> None:
    """Nothing is under way, at the gateway and at the providers, and nothing is taken."""
    await until(lambda: world.mesh.in_flight == 0, 60.0)
    await until(lambda: all(provider.in_flight == 0 for provider in world.providers.values()), 60.0)
    await until(lambda: server_connections(world) == 0, 60.0)
    await until(lambda: all(pool.connections == pool.idle_connections for pool in pools(world)), 60.0)
    world.mesh.record_ended()
    assert all(entry.in_flight == 0 for entry in world.mesh.offer_health())
    assert not world.mesh.lines._of
    assert world.mesh.lines._waiting == 0


async def crowd(world: World, count: int, seed: int, config: Config) -> Counter[str]:
    """So many requests from ``CALLERS`` callers at a time; returns how they ended."""
    callers = Crowd(world.gateway.port)

    def work() -> Iterator[tuple[bytes, bytes, bool]]:
        for number, request in enumerate(requests(random.Random(seed), count)):
            if number % RELOAD_EVERY == 0:
                world.mesh.reload(config)
            yield request

    shared = work()
    async with asyncio.TaskGroup() as tasks:
        for caller in range(CALLERS):
            tasks.create_task(callers.ask(shared, random.Random(f"{seed} {caller}")))
    await callers.close()
    await all_quiet(world)
    return callers.seen


@pytest.fixture
def _no_log() -> Iterator[None]:
    """pytest keeps every line that is logged, which would be the leak."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_log")
def test_nothing_leaks_over_twenty_thousand_faulty_requests(make_world: MakeWorld) -> None:
    uvloop.run(check(make_world))  # as in production


async def check(make_world: MakeWorld) -> None:
    routing = {
        "policy": "cheapest",
        "first_token_ms": 300,
        "answer_ms": 300,
        "idle_ms": 200,
        "adaptive_limits": False,
        "longest_retry_after_ms": 0,
        "longest_wait_ms": 20,
        "retry_budget": {"ratio": 1.0, "min_per_s": 10_000},
        "breaker": {"consecutive_failures": 1000, "failure_rate": 1.0, "cool_down_s": 0.001, "max_cool_down_s": 0.001},
    }
    extra = {
        "offers": list(offers()),
        "aliases": {},
        # Sensed, but not acted upon: what is to strike must not be foreseen and avoided.
        "health": {"healing": "off", "prediction": False},
        "stability": {"guardian": False},
    }
    async with make_world(
        NAMES,
        profiles={name: profile(name) for name in NAMES},
        routing=routing,
        extra=extra,
        server=ServerSettings(linger_s=0.2),
    ) as world:
        for place, case in enumerate(OF_ANSWERS):
            for order in ("first", "second"):
                world.providers[server(order, place)].faults.add(struck(case, place))
        for name, case in DOORS.items():
            world.providers[name].faults.add(case.fault)
        world.break_("closed", "refuse")
        config = load(world.config_path, {"SIM_KEY": PROVIDER_KEY})
        process = psutil.Process()

        tasks = len(asyncio.all_tasks())
        descriptors = process.num_fds()
        seen = await crowd(world, WARM_UP, 1, config)
        await world.mesh.sensing.step()  # the last report is kept: one from here on
        kinds, megabytes = objects(), resident_mb()
        seen += await crowd(world, REQUESTS - WARM_UP, 2, config)
        kinds_after, grown_mb = objects(), resident_mb() - megabytes

        assert seen.total() == REQUESTS
        assert not {how for how in seen if how.startswith(("torn", "truncated"))}, seen
        for how in ("whole answer", "whole stream", "error status", "error event", "left", "left after a part"):
            assert seen[how] > REQUESTS / 500, (how, seen)
        hits = strikes(world)
        assert hits.total() > REQUESTS / 2, "most requests met a fault, and many met several"
        assert min(hits.values()) > 5, hits

        assert grown_mb < MOST_GROWTH_MB
        more = {kind: (kinds[kind], n) for kind, n in kinds_after.items() if n > 1.2 * kinds[kind] + 100}
        assert not more, "objects of amaru that pile up"
        for pool, settings in zip(pools(world), world.mesh.plan.settings.values(), strict=True):
            assert pool.connections <= settings.max_connections
        for provider in world.mesh.plan.providers.values():
            await provider.aclose()
        await until(lambda: all(provider.connection_count == 0 for provider in world.providers.values()), 60.0)
        await until(lambda: len(asyncio.all_tasks()) <= tasks, 60.0)
        await until(lambda: process.num_fds() <= descriptors + 2, 60.0)
