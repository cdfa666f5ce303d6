"""Orders about providers: kept until somebody orders otherwise, and audited."""

from __future__ import annotations

import pytest
from directory_samples import NOW

from amaru.accounts.directory import Directory
from amaru.accounts.provider_orders import ProviderOrder, ProviderOrders
from amaru.accounts.store import Store
from amaru.errors import AccountError


def order(provider: str, **fields: object) -> ProviderOrder:
    return ProviderOrder(provider=provider, by="k-1", at=NOW, **fields)


def test_orders_stand_until_somebody_orders_otherwise(directory: Directory, store: Store) -> None:
    orders = ProviderOrders(store, directory.log)
    version = directory.log.version()
    orders.set(order("beta_1", drained=True, reason="it bills twice"), "provider.drain")
    orders.set(order("alpha", weight=0.5), "provider.weight")
    assert ProviderOrders(store, directory.log).all() == {
        "alpha": order("alpha", weight=0.5),
        "beta_1": order("beta_1", drained=True, reason="it bills twice"),
    }
    orders.set(order("beta_1", weight=0.2), "provider.enable")
    orders.set(order("alpha"), "provider.weight")
    assert orders.all() == {"beta_1": order("beta_1", weight=0.2)}
    assert directory.log.since(version).subjects == {"provider:alpha", "provider:beta_1"}
    rows = directory.log.page(subject="provider:beta_1")
    assert [(row.action, row.actor) for row in rows] == [("provider.enable", "k-1"), ("provider.drain", "k-1")]
    assert b"it bills twice" in bytes(rows[0].before)


def test_what_no_list_could_show_is_no_reason(directory: Directory, store: Store) -> None:
    with pytest.raises(AccountError, match="a reason must be"):
        ProviderOrders(store, directory.log).set(order("alpha", drained=True, reason="a\nb"), "provider.drain")
