"""Probes that cost money are charged to the house, and go out within its budgets alone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from gateway_world import OPERATOR_KEY, MakeWorld, World
from sqlalchemy import select
from test_gateway_budgets import OFFERS, allow, charged, profile, state

from amaru.accounts.allowances import Allowance, Metric, Scope
from amaru.accounts.directory import Directory
from amaru.accounts.estimate import bounds_of, upper_nusd
from amaru.accounts.keys import HOUSE
from amaru.accounts.money import nusd_half_even
from amaru.accounts.periods import Period
from amaru.accounts.schema import charges
from amaru.accounts.spend import By, spend
from amaru.config.accounts import BudgetsSettings, TenantSettings
from amaru.config.accounts_checks import check_budgets
from amaru.domain import Kind
from amaru.errors import AccountConflict, StorageError, UnknownAccount
from amaru.health.probe import REQUESTS
from amaru.mesh.probing import Probing

PROBES = {"health": {"probes": {"offers": "all", "max_usd_per_day": 1.0, "idle_after_s": 60}}}
OPERATOR = {"authorization": f"Bearer {OPERATOR_KEY}"}


def only_chats(world: World) -> Probing:
    probing = world.mesh.sensing.probing
    for offer in world.mesh.plan.board.offers:
        if Kind.CHAT not in offer.kinds:
            probing.served(offer.id, world.mesh.wall() + 1e6)
    return probing


async def probed(world: World, after_s: float) -> list[str]:
    """The offers that a probe is begun for when nobody has asked them for so long, once the probes are over."""
    probing, now = only_chats(world), world.mesh.wall()
    probing.look(now)
    found = probing.look(now + after_s)
    await probing.finish()
    return found


def directory(world: World) -> Directory:
    assert world.accounts is not None
    return world.accounts.directory


def probe_nusd(world: World) -> int:
    """The most that a probe may cost."""
    offer = world.mesh.plan.board.offers[0]
    return upper_nusd(offer.price, bounds_of(REQUESTS[Kind.CHAT]), offer)


async def no_charges(world: World) -> bool:
    def read() -> bool:
        with directory(world).store.reading() as connection:
            return connection.execute(select(charges)).first() is None

    return await asyncio.to_thread(read)


async def test_a_probe_is_charged_to_the_house(make_world: MakeWorld) -> None:
    async with make_world(
        ("alpha",), profiles={"alpha": profile()}, offers=OFFERS, extra=PROBES, with_accounts=True
    ) as world:
        budget = await allow(world, 10 * probe_nusd(world), subject=HOUSE.id)
        assert await probed(world, 100.0) == ["alpha/sim"]
        (row,) = await charged(world, 1)
        assert (row.tenant, row.team, row.key, row.offer, row.status) == ("amaru", None, None, "alpha/sim", "settled")
        assert row.decision.startswith("probe-")
        assert row.cost_pusd == world.providers["alpha"].bill.total.pico_usd > 0
        assert row.provider_ref is not None, "by which a provider's export names it"
        (shown,) = await asyncio.to_thread(lambda: list(spend(directory(world).store, [By.TENANT])))
        assert (shown.of, shown.cost_pusd, shown.attempts) == ({"tenant": "amaru"}, row.cost_pusd, 1)
        async with asyncio.timeout(30.0):
            while (await state(world, budget)).used != nusd_half_even(row.cost_pusd):  # noqa: ASYNC110 - a file's
                await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("scope", "subject"), [(Scope.TENANT, HOUSE.id), (Scope.PROVIDER, "alpha"), (Scope.MODEL, "sim")]
)
async def test_a_probe_that_no_budget_covers_is_not_sent_and_says_so(
    make_world: MakeWorld, capsys: pytest.CaptureFixture[str], scope: Scope, subject: str
) -> None:
    async with make_world(
        ("alpha",), profiles={"alpha": profile()}, offers=OFFERS, extra=PROBES, with_accounts=True
    ) as world:
        budget = await allow(world, probe_nusd(world) - 1, scope=scope, subject=subject)
        probing = world.mesh.sensing.probing
        for turn in (1, 2):
            assert await probed(world, 100.0 * turn) == ["alpha/sim"]
        assert (world.providers["alpha"].requests, probing.sent) == (0, {})
        assert probing.refused == {"alpha/sim": 2}
        assert probing.spending.usd(world.mesh.wall()) == 0.0, "it counts nothing against the day's cap"
        shown = (await world.client.get("/metrics", headers=OPERATOR)).text
        assert 'amaru_health_probes_refused_total{offer="alpha/sim"} 2.0' in shown
        assert await no_charges(world)
        assert (await state(world, budget)).used == 0
        await allow(world, 10 * probe_nusd(world), scope=scope, subject=subject)
        await probed(world, 400.0)
        assert probing.sent == {"alpha/sim": 1}
        assert (await world.chat()).status_code == 200, "its place is free again"


async def test_a_probe_whose_usage_never_came_stands(make_world: MakeWorld) -> None:
    async with make_world(
        ("alpha",), profiles={"alpha": profile()}, offers=OFFERS, extra=PROBES, with_accounts=True
    ) as world:
        budget = await allow(world, 10 * probe_nusd(world), subject=HOUSE.id)
        world.break_("alpha", "stall")
        probing, now = only_chats(world), world.mesh.wall()
        probing.look(now)
        probing.look(now + 100.0)
        async with asyncio.timeout(30.0):
            while not world.providers["alpha"].requests:  # noqa: ASYNC110 - another loop's
                await asyncio.sleep(0.01)
        await probing.aclose()  # as at the end of the process
        (row,) = await charged(world, 1)
        assert (row.tenant, row.status) == ("amaru", "standing")
        assert json.loads(row.reserved) == [[budget.id, 0, probe_nusd(world)]]


async def test_the_store_gone_keeps_probes_that_bill_and_lets_free_ones_go(make_world: MakeWorld) -> None:
    free = {"price": {"input_usd_per_mtok": 0.0, "output_usd_per_mtok": 0.0}}
    profiles = {"alpha": profile()}
    async with make_world(
        ("alpha", "beta"), profiles=profiles, offers={**OFFERS, "beta": free}, extra=PROBES, with_accounts=True
    ) as world:
        await allow(world, 10 * probe_nusd(world), subject=HOUSE.id)
        assert world.till is not None
        till = world.till.till

        def gone(_turn: object) -> None:
            raise StorageError("the disk was pulled out")

        till._bank.turn = gone  # type: ignore[method-assign]
        async with asyncio.timeout(30.0):
            while not till.gone:  # noqa: ASYNC110 - another thread's
                await asyncio.sleep(0.01)
        await probed(world, 100.0)
        probing = world.mesh.sensing.probing
        assert (probing.sent, probing.refused) == ({"beta/sim": 1}, {"alpha/sim": 1})


async def test_nobody_else_has_the_name(make_world: MakeWorld) -> None:
    async with make_world(("alpha",), profiles={"alpha": profile()}, offers=OFFERS, with_accounts=True) as world:

        def refused() -> None:
            with pytest.raises(AccountConflict, match="own probes are charged to"):
                directory(world).tenants.create(HOUSE.id, by="ann")
            with pytest.raises(UnknownAccount):
                directory(world).keys.create(HOUSE.id, by="ann")
            with pytest.raises(UnknownAccount):
                directory(world).teams.create(HOUSE.id, "a", by="ann")
            budget = Allowance(
                scope=Scope.TENANT, subject=HOUSE.id, metric=Metric.USD, period=Period.MONTH, amount=10**9
            )
            assert directory(world).allowances.set(budget, by="ann") == budget
            directory(world).allowances.archive(budget.id, by="ann")

        await asyncio.to_thread(refused)


def test_nor_may_the_file_have_it() -> None:
    settings: dict[str, Any] = {HOUSE.id: TenantSettings()}
    (problem,) = check_budgets(settings, BudgetsSettings())
    assert problem.loc == ("tenants", "amaru")
