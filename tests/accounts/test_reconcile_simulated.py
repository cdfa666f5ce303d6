"""Charges beside the usage export of a simulated provider that cuts answers short: in the end they are its bill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from charge_samples import charge, write

from amaru.accounts.bank_sql import SqlBank
from amaru.accounts.changes import ChangeLog
from amaru.accounts.charges import Charge, ChargeStatus
from amaru.accounts.comparison import Cause
from amaru.accounts.corrections import apply
from amaru.accounts.cost import cost_pusd
from amaru.accounts.exports import Export
from amaru.accounts.reconcile import compare
from amaru.accounts.spend import spend
from amaru.accounts.store import Store
from amaru.domain import Price, Usage
from amaru.simulation import Fault, ProviderProfile, SimulatedProvider

PRICE = Price(input_usd_per_mtok=0.31, cached_input_usd_per_mtok=0.07, output_usd_per_mtok=0.913)
AT = 1_793_534_400.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(str(tmp_path / "accounts.db"))
    opened.open()
    yield opened
    opened.close()


async def ask(http: httpx.AsyncClient, url: str, number: int) -> Charge:
    """Ask for a stream, and charge what it tells: its usage, or an estimate where it is cut."""
    body = {
        "model": "sim-model", "messages": [{"role": "user", "content": f"Story {number}. " * 400}], "max_tokens": 40,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    ref, usage = None, None
    try:
        async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line.removeprefix("data: "))
                    ref, usage = chunk["id"], chunk.get("usage") or usage
    except httpx.TransportError:  # cut
        pass
    figures = {"at": AT, "provider": "sim", "model": "sim-model", "provider_ref": ref}
    if usage is None:
        return charge(**figures, status=ChargeStatus.STANDING, usage_source="estimated", cost_pusd=1)
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    used = Usage(usage["prompt_tokens"], usage["completion_tokens"], cached)
    return charge(
        **figures, input_tokens=used.input_tokens, cached_input_tokens=cached, output_tokens=used.output_tokens,
        cost_pusd=cost_pusd(PRICE, used),
    )  # fmt: skip


async def test_what_was_cut_is_listed_and_then_the_sum_is_the_bill(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "usage.csv"
    async with (
        SimulatedProvider(ProviderProfile(price=PRICE), clock=lambda: AT) as provider,
        httpx.AsyncClient() as http,
    ):
        made = [await ask(http, provider.url, number) for number in range(4)]
        provider.faults.add(Fault(kind="cut", after_events=3))
        made += [await ask(http, provider.url, number) for number in range(3)]
        path.write_bytes((await http.get(f"{provider.url}/sim/usage")).content)
        billed_pusd = provider.bill.total.pico_usd
    write(store, *made)
    with compare(store, Export(path), since=AT - 60, until=AT + 60) as found:
        assert {cause: each.count for cause, each in found.causes.items()} == {Cause.UNKNOWN_USAGE: 3}
        assert (found.agreed, found.theirs_pusd) == (4, billed_pusd)
        apply(found, store, SqlBank(store), ChangeLog(store, lambda: AT), file=path, at=AT, by="cli:ann")
    (whole,) = spend(store, [])
    assert (whole.cost_pusd, whole.standing_pusd) == (billed_pusd, 0)
