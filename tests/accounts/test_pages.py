"""Lists come whole, a page at a time, on either engine: what the file has first, each entry once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from directory_samples import budget

from amaru.accounts.allowances import Scope
from amaru.accounts.directory import Directory
from amaru.accounts.directory_base import FromFile
from amaru.accounts.pages import every
from amaru.domain import Tenant
from amaru.errors import RequestError

FILED = FromFile(
    by_id={id: Tenant(id=id) for id in ("zeta", "Alpha", "m-1")},
    allowances=tuple(budget(Scope.MODEL, name, from_file=True) for name in ("z/1", "a model", "M")),
    resources=frozenset({"chat", "z/1"}),
)
STORED = ["B", "a", "a-b", "a.c", "a_b", "ab", "b", "c-1", "c-2"]
"""Names that languages and bytes put in different orders."""


@pytest.fixture
def filled(open_directory: Callable[..., Directory]) -> Directory:
    made = open_directory(from_file=FILED)
    for id in STORED:
        made.tenants.create(id, by="ann")
        made.allowances.set(budget(Scope.TENANT, id), by="ann")
        for tenant in ("zeta", id):
            made.teams.create(tenant, f"t{id}", by="ann")
    made.tenants.archive("b", by="ann")
    made.teams.archive("zeta", "tb", by="ann")
    return made


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 12, 100])
def test_whatever_the_size_of_pages_each_entry_is_there_once(filled: Directory, limit: int) -> None:
    tenants = [one.id for one in every(lambda cursor: filled.tenants.page(cursor=cursor, limit=limit))]
    assert tenants[:3] == ["Alpha", "m-1", "zeta"]
    assert sorted(tenants[3:]) == [id for id in STORED if id != "b"]
    whole = [one.id for one in every(lambda cursor: filled.tenants.page(archived=True, cursor=cursor, limit=limit))]
    assert sorted(whole[3:]) == STORED
    allowances = [one.id for one in every(lambda cursor: filled.allowances.page(cursor=cursor, limit=limit))]
    assert allowances[:3] == ["model:M:usd:month", "model:a model:usd:month", "model:z/1:usd:month"]
    assert sorted(allowances[3:]) == sorted(f"tenant:{id}:usd:month" for id in STORED)
    teams = [(one.tenant, one.id) for one in every(lambda cursor: filled.teams.page(cursor=cursor, limit=limit))]
    assert sorted(teams) == sorted((t, f"t{id}") for id in STORED for t in ("zeta", id) if (t, id) != ("zeta", "b"))
    of_one = every(lambda cursor: filled.teams.page("zeta", archived=True, cursor=cursor, limit=limit))
    assert sorted(one.id for one in of_one) == [f"t{id}" for id in STORED]


def test_pages_are_of_their_size_and_say_where_the_next_begins(filled: Directory) -> None:
    page, cursor = filled.tenants.page(limit=3)
    assert ([one.from_file for one in page], cursor) == ([True] * 3, "file:zeta")
    page, cursor = filled.tenants.page(cursor=cursor, limit=8)
    assert (len(page), cursor) == (8, None)
    assert filled.tenants.page(limit=10**9).next_cursor is None


def test_what_a_reload_takes_away_hides_nothing_else(filled: Directory) -> None:
    first, cursor = filled.tenants.page(limit=2)
    filled.take(FromFile(by_id={"zeta": Tenant(id="zeta")}))
    rest = [one.id for one in filled.tenants.page(cursor=cursor).items]
    assert [one.id for one in first] == ["Alpha", "m-1"]
    assert sorted(rest) == sorted(["zeta", *(id for id in STORED if id != "b")])


def test_allowances_are_found_by_scope_and_subject(filled: Directory) -> None:
    assert [one.subject for one in filled.allowances.page(scope=Scope.MODEL).items] == ["M", "a model", "z/1"]
    assert [one.id for one in filled.allowances.page(subject="a-b").items] == ["tenant:a-b:usd:month"]
    assert filled.allowances.page(scope=Scope.MODEL, subject="a-b").items == []


@pytest.mark.parametrize("cursor", ["x", "elsewhere:a", ":", "store"])
def test_a_cursor_that_is_none_is_refused(filled: Directory, cursor: str) -> None:
    with pytest.raises(RequestError, match="next_cursor of the page before"):
        filled.tenants.page(cursor=cursor)
