"""What a gateway charges for requests that break on the way, beside its providers' own bills."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import httpx
from gateway_world import PROVIDER_KEY, MakeWorld, World

from amaru.accounts.bank_sql import SqlBank
from amaru.accounts.changes import ChangeLog
from amaru.accounts.comparison import Cause
from amaru.accounts.corrections import apply
from amaru.accounts.exports import Export
from amaru.accounts.reconcile import compare
from amaru.accounts.spend import By, spend
from amaru.accounts.store import Store
from amaru.domain import Price
from amaru.simulation import ProviderProfile, SimulatedProvider

PRICES = {
    "alpha": {"input_usd_per_mtok": 0.37, "cached_input_usd_per_mtok": 0.11, "output_usd_per_mtok": 1.913},
    "beta": {"input_usd_per_mtok": 0.59, "output_usd_per_mtok": 2.3},
}
REQUESTS = 60
FAULTS = (
    ("alpha", "cut", {"after_events": 3, "probability": 0.3, "only": "stream"}),
    ("alpha", "status", {"status": 500, "probability": 0.2}),
    ("beta", "reset", {"probability": 0.2, "at": "done"}),
    ("beta", "garbage", {"probability": 0.1}),
)


def profile(name: str) -> ProviderProfile:
    return ProviderProfile(name=name, keys=(PROVIDER_KEY,), price=Price(**PRICES[name]))


async def ask(world: World, number: int) -> None:
    fields = {"content": f"Tell story {number}. " * 100, "max_tokens": 20 + number}
    with contextlib.suppress(httpx.TransportError):  # an answer that nobody could save
        if number % 2:
            await world.chat(**fields)
        else:
            messages = [{"role": "user", "content": fields["content"]}]
            await world.stream(messages=messages, max_tokens=fields["max_tokens"])


async def served(make_world: MakeWorld) -> dict[str, SimulatedProvider]:
    """Have a gateway serve over providers that break; the providers, with their bills."""
    profiles = {name: profile(name) for name in PRICES}
    offers = {name: {"price": price} for name, price in PRICES.items()}
    tried = {"routing": {"policy": "random"}}
    async with make_world(tuple(PRICES), profiles=profiles, offers=offers, with_accounts=True, **tried) as world:
        for name, kind, fields in FAULTS:
            world.break_(name, kind, **fields)
        for first in range(0, REQUESTS, 10):
            await asyncio.gather(*(ask(world, number) for number in range(first, first + 10)))
        return world.providers


async def test_charges_are_the_bills_where_usage_arrived_and_all_else_is_listed(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    began = time.time()
    providers = await served(make_world)
    store = Store(str(tmp_path / "accounts.db"))
    store.open()
    window = {"since": began - 60, "until": time.time() + 60}
    unknown = 0
    for name, provider in providers.items():
        path = tmp_path / f"{name}.csv"
        path.write_text(provider.bill.as_csv())
        with compare(store, Export(path), provider=name, **window) as found:
            assert found.causes.keys() <= {Cause.UNKNOWN_USAGE}
            assert found.agreed > 0
            assert found.theirs_pusd == provider.bill.total.pico_usd
            unknown += found.differences
            apply(found, store, SqlBank(store), ChangeLog(store, time.time), file=path, at=time.time(), by="cli:ann")
        with compare(store, Export(path), provider=name, **window) as after:
            assert after.differences == 0
    assert unknown > 0, "something broke"
    sums = {row.of["provider"]: row for row in spend(store, [By.PROVIDER])}
    assert {name: row.cost_pusd for name, row in sums.items()} == {
        name: provider.bill.total.pico_usd for name, provider in providers.items()
    }
    assert all(row.standing_pusd == 0 for row in sums.values())
    store.close()
