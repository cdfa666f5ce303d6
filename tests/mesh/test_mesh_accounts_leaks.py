"""Whatever becomes of requests, each reservation is ended once: at the end only what stands is still taken."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from sqlalchemy import select

from amaru.accounts.allowances import Allowance, Metric, Scope
from amaru.accounts.money import nusd_half_even
from amaru.accounts.periods import Period
from amaru.accounts.schema import charges, counters, leases
from amaru.config import parse
from amaru.domain import FailureKind, Kind, Offer, Usage
from amaru.errors import Failure, RequestError
from amaru.mesh import Call, Execution, Mesh
from amaru.mesh.accounts import MeshAccounts
from amaru.mesh.accounts_till import MeshTill
from amaru.protocols.openai import OpenAIRequest, parse_request
from amaru.protocols.stream import Sent
from amaru.providers.base import Facts, StreamReply, Timing, WholeReply
from amaru.storage import DecisionStore, StoreSettings
from amaru.telemetry.metrics import Metrics

REQUESTS = 3000
AT_ONCE = 60
BODY = {"model": "sim", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 12}
USAGE = Usage(3, 12)
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'


class ChaosStream(StreamReply):
    """A stream that ends, breaks or stalls as it was drawn."""

    __slots__ = ("_draw", "_events", "_facts", "first")

    def __init__(self, draw: random.Random) -> None:
        self.first = EVENT
        self._draw = draw
        self._events = draw.randrange(4)
        self._facts = Facts(output_text=["hi"], output_chars=2)

    @property
    def facts(self) -> Facts:
        return self._facts

    @property
    def sent(self) -> Sent:
        return Sent("hi", events=1)

    async def next(self) -> bytes:
        await asyncio.sleep(self._draw.random() * 0.003)
        if self._events:
            self._events -= 1
            if self._draw.random() < 0.2:
                raise Failure(FailureKind.STREAM_CUT, "cut")
            return EVENT
        if self._draw.random() < 0.8:
            self._facts = msgspec.structs.replace(self._facts, usage=USAGE)
        return b""

    def close(self) -> None:
        pass


class ChaosProvider:
    """Answers, fails, hangs and blunders at random, and never twice alike."""

    def __init__(self, id: str, draw: random.Random) -> None:
        self.id = id
        self.draw = draw
        self.billed = 0

    async def call(
        self, offer: Offer, request: OpenAIRequest, timing: Timing, *, whole: bool = False
    ) -> WholeReply | StreamReply:
        draw = self.draw
        await asyncio.sleep(draw.random() * 0.004)
        luck = draw.random()
        if luck < 0.1:
            raise Failure(draw.choice([FailureKind.CONNECT, FailureKind.RESET, FailureKind.NO_ANSWER]), "no luck")
        if luck < 0.2:
            raise Failure(draw.choice([FailureKind.SERVER_ERROR, FailureKind.RATE_LIMITED]), "refused", status=500)
        if luck < 0.25:
            cut = Failure(FailureKind.MALFORMED_BODY, "cut", status=200)
            cut.generated_bytes = 20
            raise cut
        if luck < 0.28:
            raise RuntimeError("a mistake of ours")
        if request.stream and not whole:
            return ChaosStream(draw)
        told = USAGE if draw.random() < 0.8 else None
        return WholeReply(200, b"{}", b"application/json", Facts(usage=told, output_text=["hi"], output_chars=2))

    async def aclose(self) -> None:
        pass

    def adapted(self, offer: str) -> None:
        return None

    def unread(self, offer: str) -> tuple[()]:
        return ()


def settings_for(folder: Path) -> dict[str, Any]:
    price = {"input_usd_per_mtok": 10, "output_usd_per_mtok": 30}
    return {
        "version": 1,
        "server": {"auth": "none"},
        "providers": {name: {"base_url": "http://127.0.0.1:1/v1"} for name in "abc"},
        "offers": [{"provider": name, "resource": "sim", "model": "m", "price": price} for name in "abc"],
        "storage": {"path": str(folder / "amaru.db")},
        # No breaker opens for longer than a blink: otherwise how fast the machine is would decide how much is served.
        "routing": {
            "retry_budget": {"ratio": 1.0},
            "breaker": {"consecutive_failures": 1000, "failure_rate": 1, "cool_down_s": 0.01, "max_cool_down_s": 0.01},
        },
    }


def everything() -> list[Allowance]:
    budgets = [(Scope.TENANT, "anonymous"), (Scope.KEY, "k-1"), (Scope.MODEL, "sim"), (Scope.PROVIDER, "a")]
    usd = [
        Allowance(scope=scope, subject=subject, metric=Metric.USD, period=Period.TOTAL, amount=1_200_000_000, hard=hard)
        for (scope, subject), hard in zip(budgets, (True, False, True, True), strict=True)
    ]
    limit = Allowance(
        scope=Scope.TENANT, subject="anonymous", metric=Metric.CONCURRENCY, period=Period.NONE, amount=AT_ONCE - 10
    )
    return [*usd, limit]


async def serve(mesh: Mesh, call: Call) -> str:
    execution: Execution = mesh.begin(call)
    try:
        reply = await execution.run()
        if isinstance(reply, StreamReply):
            while await execution.next():
                pass
        return "served"
    except RequestError as error:
        return str(error.status)
    except RuntimeError:
        return "blunder"
    finally:
        execution.settle()


@pytest.mark.parametrize("unknown_usage", ["hold", "estimate"])
async def test_nothing_stays_taken_but_what_stands(tmp_path: Path, unknown_usage: str) -> None:
    config = parse(yaml.safe_dump(settings_for(tmp_path) | {"accounts": {"unknown_usage": unknown_usage}}), env={})
    store = DecisionStore(StoreSettings(path=config.storage_path))
    store.start()
    accounts = MeshAccounts.of(config)
    await accounts.start()
    till = MeshTill.of(config, accounts)
    accounts.directory.take(msgspec.structs.replace(accounts.directory.from_file, allowances=tuple(everything())))
    await till.start()
    mesh = Mesh(config, store, Metrics(), till=till, rng=random.Random(1))
    draw = random.Random(2)
    mesh.plan.providers.update({name: ChaosProvider(name, draw) for name in "abc"})  # type: ignore[misc]
    tenant = mesh.keyring.tenant_of(None)
    ends: Counter[str] = Counter()
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with places:
            request = parse_request(Kind.CHAT, msgspec.json.encode({**BODY, "stream": number % 2 == 0}))
            call = Call(tenant=tenant, request=request, arrived_at=mesh.clock(), key="k-1", deadline_s=1.0)
            task = asyncio.create_task(serve(mesh, call))
            if draw.random() < 0.3:
                await asyncio.sleep(draw.random() * 0.008)
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                ends[end := await task] += 1
                if end == "429":
                    # Who is refused comes back a while later; at once, the refused would use up all requests.
                    await asyncio.sleep(0.004)
                return
            ends["left"] += 1

    await asyncio.gather(*(one(number) for number in range(REQUESTS)))
    assert ends["served"] > 100
    assert min(ends["left"], ends["429"], ends["blunder"]) > 0
    await mesh.aclose()
    await till.aclose()
    with accounts.directory.store.reading() as connection:
        rows = connection.execute(select(charges)).all()
        held = {row.allowance: row for row in connection.execute(select(counters)) if row.leased or row.settled}
        assert connection.execute(select(leases)).all() == []
    await accounts.aclose()
    await store.close()
    standing = [row for row in rows if row.status == "standing"]
    assert bool(standing) == (unknown_usage == "hold")
    expected: dict[str, list[int]] = {}
    for row in rows:
        if row.status == "standing":
            for allowance, _, amount in msgspec.json.decode(row.reserved):
                expected.setdefault(allowance, [0, 0])[1] += amount
        else:
            whose = ["tenant:anonymous:usd:total", "key:k-1:usd:total", "model:sim:usd:total"]
            for allowance in [*whose, *(["provider:a:usd:total"] if row.provider == "a" else [])]:
                expected.setdefault(allowance, [0, 0])[0] += nusd_half_even(row.cost_pusd)
    assert {id: [row.settled, row.leased] for id, row in held.items()} == expected
    assert len({row.id for row in rows}) == len(rows)
    assert {row.price for row in rows} == set(mesh.plan.price_ids.values())
