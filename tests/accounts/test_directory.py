"""The directory keeps tenants, teams, keys and allowances, on either engine, and writes down who changed what."""

from __future__ import annotations

import threading

import msgspec
import pytest
from directory_samples import FILE, NOW, Clock, budget

from amaru.accounts.allowances import Allowance, Scope
from amaru.accounts.directory import Directory
from amaru.accounts.directory_base import FromFile
from amaru.accounts.directory_keys import Role
from amaru.accounts.periods import Period
from amaru.accounts.retention import RETENTION_S
from amaru.accounts.store import Store
from amaru.domain import Limits, Rescue, Tenant, Weights
from amaru.errors import AccountConflict, AccountError, StorageError, UnknownAccount

WEIGHTS = ("price", "latency", "reputation", "availability")


def actions(directory: Directory) -> list[tuple[str, str, str]]:
    """Oldest first."""
    return [(row.actor, row.action, row.subject) for row in reversed(directory.log.page())]


def test_a_tenant_from_its_making_to_its_end(directory: Directory, clock: Clock) -> None:
    made = directory.tenants.create(
        "acme", by="ann", name="ACME, Inc.", settings={"weights": {"price": 2}, "rescue": "hold"}
    )
    assert directory.tenants.get("acme") == made
    tenant = made.tenant()
    assert (tenant.id, tenant.weights, tenant.limits, tenant.rescue) == (
        "acme", Weights(price=2), Limits(), Rescue.HOLD,
    )  # fmt: skip
    changed = directory.tenants.change("acme", by="bob", settings={"limits": {"regions": ["eu-west"]}})
    assert changed.tenant().limits == Limits(regions=("eu-west",))
    assert changed.name == "ACME, Inc."
    clock.now += 10
    assert directory.tenants.archive("acme", by="bob").archived_at == NOW + 10
    assert [one.id for one in directory.tenants.page().items] == ["filed"]
    assert [one.id for one in directory.tenants.page(archived=True).items] == ["filed", "acme"]
    with pytest.raises(AccountConflict, match="tenant acme is archived; restore it first"):
        directory.keys.create("acme", by="ann")
    directory.tenants.archive("acme", by="bob")  # once more changes nothing
    directory.tenants.restore("acme", by="ann")
    assert directory.tenants.get("acme") == changed
    assert actions(directory) == [
        ("ann", "tenant.create", "tenant:acme"),
        ("bob", "tenant.change", "tenant:acme"),
        ("bob", "tenant.archive", "tenant:acme"),
        ("ann", "tenant.restore", "tenant:acme"),
    ]


@pytest.mark.parametrize(
    ("id", "settings", "said"),
    [
        ("", {}, "1 to 64 letters"),
        ("a/b", {}, "1 to 64 letters"),
        ("../etc", {}, "1 to 64 letters"),
        ("a" * 65, {}, "1 to 64 letters"),
        ("böse", {}, "1 to 64 letters"),
        ("a\n", {}, "1 to 64 letters"),
        ("acme", {"weights": {"price": -1}}, "weights.price: must be at least 0, not -1"),
        ("acme", {"weights": dict.fromkeys(WEIGHTS, 0)}, "every weight is 0"),
        ("acme", {"rescue": "joni"}, 'rescue: not one of join, hold: "joni" — did you mean "join"?'),
        ("acme", {"wieghts": {}}, 'unknown field — did you mean "weights"?'),
        ("acme", {"open_usd": "-5"}, "open_usd: an amount must be at least 0, not -5"),
        ("filed", {}, r"tenant filed is in etc/amaru.yaml; choose another name"),
    ],
)  # fmt: skip
def test_a_tenant_that_cannot_be(directory: Directory, id: str, settings: dict[str, object], said: str) -> None:
    with pytest.raises(AccountError, match=said):
        directory.tenants.create(id, by="ann", settings=settings)
    assert [one.id for one in directory.tenants.page(archived=True).items] == ["filed"]
    assert directory.log.version() == 0


@pytest.mark.parametrize("name", ["a\tb", " a", "a\x00", "\u202egnp", "x" * 201])
def test_odd_characters_in_what_people_read_are_refused(directory: Directory, name: str) -> None:
    with pytest.raises(AccountError, match="1 to 200 printable characters"):
        directory.tenants.create("acme", by="ann", name=name)
    with pytest.raises(AccountError, match="who changes it must be"):
        directory.tenants.create("acme", by=name)


def test_a_name_is_taken_once(directory: Directory) -> None:
    directory.tenants.create("acme", by="ann")
    with pytest.raises(AccountConflict, match="there is a tenant acme already"):
        directory.tenants.create("acme", by="ann")
    directory.teams.create("acme", "search", by="ann")
    directory.teams.create("filed", "search", by="ann")
    with pytest.raises(AccountConflict, match="tenant acme has a team search already"):
        directory.teams.create("acme", "search", by="ann")


def test_what_the_file_has_is_changed_there(directory: Directory) -> None:
    with pytest.raises(AccountConflict, match=r"tenant filed is in etc/amaru.yaml; change it there"):
        directory.tenants.archive("filed", by="ann")
    for change in (
        lambda: directory.allowances.set(budget(Scope.TENANT, "filed", amount=1), by="ann"),
        lambda: directory.allowances.archive("tenant:filed:usd:month", by="ann"),
    ):
        with pytest.raises(AccountConflict, match=r"tenant:filed:usd:month is in etc/amaru.yaml; change it there"):
            change()
    directory.allowances.set(budget(Scope.TENANT, "filed", period=Period.DAY), by="ann")


def test_a_file_with_a_name_that_the_store_has_is_refused(directory: Directory) -> None:
    directory.tenants.create("acme", by="ann")
    directory.allowances.set(budget(Scope.MODEL, "chat"), by="ann")
    wanted = FromFile("amaru.yaml", {"acme": Tenant(id="acme")}, (budget(Scope.MODEL, "chat", from_file=True),))
    with pytest.raises(AccountConflict, match=r"amaru.yaml and .* both have tenant acme \(.*\), budget model:chat:usd"):
        directory.reload(wanted)
    assert directory.from_file is FILE
    directory.tenants.archive("acme", by="ann")
    directory.allowances.archive("model:chat:usd:month", by="ann")
    directory.reload(wanted)
    assert [one.id for one in directory.tenants.page().items] == ["acme"]
    with pytest.raises(AccountConflict, match=r"is in amaru\.yaml"):
        directory.tenants.restore("acme", by="ann")


def test_teams(directory: Directory) -> None:
    with pytest.raises(UnknownAccount, match='there is no tenant "nobody"'):
        directory.teams.create("nobody", "search", by="ann")
    directory.teams.create("filed", "search", by="ann", name="Search")
    directory.teams.archive("filed", "search", by="ann")
    assert directory.teams.page("filed").items == []
    with pytest.raises(AccountConflict, match="team filed/search is archived"):
        directory.keys.create("filed", by="ann", team="search")
    directory.teams.restore("filed", "search", by="ann")
    assert [(one.id, one.name) for one in directory.teams.page("filed").items] == [("search", "Search")]
    with pytest.raises(UnknownAccount, match='tenant "filed" has no team "other"'):
        directory.teams.archive("filed", "other", by="ann")


def test_allowances(directory: Directory) -> None:
    directory.tenants.create("acme", by="ann")
    first = directory.allowances.set(budget(Scope.TENANT, "acme"), by="ann")
    assert directory.allowances.get("tenant:acme:usd:month") == first
    second = directory.allowances.set(budget(Scope.TENANT, "acme", amount=5, hard=False, alerts=()), by="bob")
    assert [one for one in directory.allowances.page().items if not one.from_file] == [second]
    assert directory.allowances.archive(second.id, by="ann") == second
    with pytest.raises(UnknownAccount, match="there is no allowance"):
        directory.allowances.archive(second.id, by="ann")
    assert directory.allowances.set(first, by="ann") == directory.allowances.get(first.id)
    row = directory.log.page(subject="allowance:tenant:acme:usd:month")[1]
    assert (row.action, row.actor, row.after) == ("allowance.archive", "ann", None)
    assert msgspec.json.decode(row.before)["amount"] == 5


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (budget(Scope.TENANT, "filed", period=Period.WEEK, amount=-1), "the amount must be at least 0"),
        (budget(Scope.TENANT, "filed", period=Period.MINUTE), "usd counts per day"),
        (budget(Scope.TENANT, "nobody"), 'there is no tenant "nobody"'),
        (budget(Scope.TEAM, "filed"), "name a team as TENANT/TEAM"),
        (budget(Scope.TEAM, "filed/nobody"), 'has no team "nobody"'),
        (budget(Scope.KEY, "k-none"), 'there is no key "k-none"'),
        (budget(Scope.MODEL, ""), "a model's name must be"),
        (budget(Scope.MODEL, "chta"), 'there is no model "chta": did you mean "chat"?'),
        (budget(Scope.PROVIDER, "chat"), 'there is no provider "chat": known: openai'),
        (budget(Scope.MODEL, "a\x1b[31m"), "a model's name must be"),
    ],
)
def test_an_allowance_that_cannot_be(directory: Directory, wanted: Allowance, said: str) -> None:
    with pytest.raises(AccountError, match=said):
        directory.allowances.set(wanted, by="ann")
    assert directory.allowances.stored() == []


@pytest.mark.parametrize("odd", ["a\0b", "\udcff", "'; DROP TABLE accounts_tenants; --", "%", "x" * 100_000])
def test_odd_characters_in_what_is_looked_for_find_nothing(directory: Directory, odd: str) -> None:
    for look in (
        lambda: directory.tenants.get(odd),
        lambda: directory.tenants.archive(odd, by="ann"),
        lambda: directory.teams.create(odd, "search", by="ann"),
        lambda: directory.teams.archive("filed", odd, by="ann"),
        lambda: directory.keys.get(odd),
        lambda: directory.keys.revoke(odd, by="ann"),
        lambda: directory.keys.create(odd, by="ann"),
        lambda: directory.allowances.get(odd),
        lambda: directory.allowances.archive(odd, by="ann"),
    ):
        with pytest.raises(UnknownAccount):
            look()
    assert directory.keys.page(tenant=odd).items == directory.teams.page(odd).items == []
    assert directory.log.page(subject=odd) == []
    assert directory.keys.find(odd.encode(errors="surrogatepass")) is None


def test_the_version_rises_with_each_change_and_tells_what_it_was(directory: Directory) -> None:
    directory.tenants.create("acme", by="ann")
    before = directory.log.version()
    assert directory.log.since(before).subjects == frozenset()
    key = directory.keys.create("acme", by="ann").info
    directory.allowances.set(budget(Scope.TENANT, "acme"), by="ann")
    changes = directory.log.since(before)
    assert changes.version == directory.log.version() == before + 2
    assert changes.subjects == {f"key:{key.id}", "allowance:tenant:acme:usd:month"}
    assert directory.log.since(before + 3).subjects is None  # a store that was put back from a backup


def test_of_many_that_take_a_name_at_once_one_gets_it(directory: Directory) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(6)

    def create(by: str) -> None:
        start.wait()
        try:
            outcomes.append(directory.tenants.create("acme", by=by).id)
        except AccountConflict as error:
            outcomes.append(str(error)[:32])

    threads = [threading.Thread(target=create, args=(by,)) for by in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["acme", *["there is a tenant acme already; "] * 5]


def test_changes_from_many_threads_are_each_seen(directory: Directory) -> None:
    seen: set[str] = set()
    done = threading.Event()

    def follow() -> None:
        version, last = 0, False
        while not last:
            last = done.is_set()
            changes = directory.log.since(version)
            version = changes.version
            seen.update(changes.subjects or ())

    def create(name: str) -> None:
        for number in range(10):
            directory.tenants.create(f"{name}{number}", by=name)

    follower = threading.Thread(target=follow)
    makers = [threading.Thread(target=create, args=(name,)) for name in "abc"]
    for thread in (follower, *makers):
        thread.start()
    for thread in makers:
        thread.join()
    done.set()
    follower.join()
    assert seen == {f"tenant:{name}{number}" for name in "abc" for number in range(10)}
    assert directory.log.version() == 30


def test_the_audit_is_read_in_pages(directory: Directory) -> None:
    for name in "abcde":
        directory.tenants.create(name, by="ann")
    first = directory.log.page(2)
    assert [row.subject for row in first] == ["tenant:e", "tenant:d"]
    assert [row.subject for row in directory.log.page(2, before=first[-1].id)] == ["tenant:c", "tenant:b"]


def test_old_rows_are_pruned(directory: Directory, clock: Clock) -> None:
    old = directory.keys.create("filed", by="ann", expires_at=NOW + 5).info
    kept = directory.keys.create("filed", by="ann").info
    clock.now += RETENTION_S + 10
    new = directory.keys.create("filed", by="ann", expires_at=clock.now + 5).info
    assert directory.prune() == 1 + 2
    assert {one.id for one in directory.keys.page(over=True).items} == {kept.id, new.id}
    with pytest.raises(UnknownAccount):
        directory.keys.get(old.id)


def test_a_store_that_fails_midway_leaves_nothing_half_done(directory: Directory, store: Store) -> None:
    with store.writing() as connection:
        connection.exec_driver_sql("DROP TABLE accounts_audit")
    with pytest.raises(StorageError, match="accounts_audit"):
        directory.tenants.create("acme", by="ann")
    assert [one.id for one in directory.tenants.page(archived=True).items] == ["filed"]
    assert directory.log.version() == 0


def test_admin_keys_have_roles(directory: Directory) -> None:
    made = directory.keys.create_admin(Role.OPERATE, by="ann", name="on call")
    found = directory.keys.find(made.key.encode())
    assert found is not None
    assert (found.info.role, found.info.tenant) == (Role.OPERATE, None)
