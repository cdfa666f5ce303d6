"""Whatever is lost or wrong on either side is found, told by its cause, and gone once it is reconciled."""

from __future__ import annotations

import csv
import datetime
import enum
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from charge_samples import NOON, charge, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select

from amaru.accounts.bank_sql import SqlBank
from amaru.accounts.changes import ChangeLog
from amaru.accounts.charges import Charge, ChargeStatus
from amaru.accounts.comparison import Cause, Comparison
from amaru.accounts.corrections import Applied, apply
from amaru.accounts.exports import Export
from amaru.accounts.money import usd_text
from amaru.accounts.reconcile import compare
from amaru.accounts.schema import charges, counters
from amaru.accounts.spend import By, Which, charges_of, spend
from amaru.accounts.store import Store
from amaru.errors import AccountError, StorageError

COLUMNS = ("id", "at", "model", "input_tokens", "cached_input_tokens", "output_tokens", "cost_usd")
APART_S = 700
WINDOW = {"since": NOON - 3600, "until": NOON + 200 * APART_S}


class Fate(enum.Enum):
    """What became of a request on its way into both books, and the cause that it must be listed under."""

    AGREES = None
    ESTIMATE_IS_RIGHT = "estimated"
    BILLED_STANDS = Cause.UNKNOWN_USAGE
    STANDS_UNBILLED = "unbilled"
    ESTIMATE_IS_WRONG = "wrong"
    LOST_HERE = Cause.MISSING_HERE
    LOST_THERE = Cause.MISSING_THERE
    TOKENS_WRONG = Cause.TOKENS
    PRICE_WRONG = Cause.PRICE
    ROUNDED = Cause.ROUNDING

    @property
    def cause(self) -> Cause | None:
        if self in (Fate.STANDS_UNBILLED, Fate.ESTIMATE_IS_WRONG):
            return Cause.UNKNOWN_USAGE
        return self.value if isinstance(self.value, Cause) else None


class Request(msgspec.Struct, frozen=True):
    """A true request, of a cost that has nine decimals."""

    fate: Fate
    model: str
    output_tokens: int
    cost_nusd: int
    jitter_s: float
    ref_here: bool
    ref_there: bool


requests = st.lists(
    st.builds(
        Request,
        st.sampled_from(Fate),
        st.sampled_from(["large", "small-2026-01-01"]),
        st.integers(1, 10**6),
        st.integers(100, 10**12),
        st.floats(-0.9, 0.9),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


def books(made: list[Request]) -> tuple[list[Charge], list[dict[str, Any]]]:
    """What we charged, and what they bill."""
    ours, theirs = [], []
    for number, true in enumerate(made):
        fate, at, id = true.fate, NOON + number * APART_S, f"answer-{number}"
        tokens, pusd = true.output_tokens, true.cost_nusd * 1000
        refs = (True, True) if fate is Fate.TOKENS_WRONG else (true.ref_here, true.ref_there)
        if fate not in (Fate.LOST_THERE, Fate.STANDS_UNBILLED):
            line = {"id": id if refs[1] else "", "at": at + true.jitter_s, "model": true.model.upper()}
            line |= {"input_tokens": 1000 + number, "cached_input_tokens": 7, "output_tokens": tokens}
            theirs.append(line | {"cost_usd": f"{true.cost_nusd / 10**9:.9f}"})
        if fate is Fate.LOST_HERE:
            continue
        source, status = "provider", ChargeStatus.SETTLED
        if fate in (Fate.BILLED_STANDS, Fate.STANDS_UNBILLED):
            source, status, tokens, pusd = "estimated", ChargeStatus.STANDING, tokens // 2, pusd // 3
        elif fate is Fate.ESTIMATE_IS_WRONG:
            source, tokens, pusd = "estimated", tokens + 5, pusd + 777
        elif fate is Fate.ESTIMATE_IS_RIGHT:
            source = "counted"
        elif fate is Fate.TOKENS_WRONG:
            tokens, pusd = tokens + 1, pusd * 2
        elif fate is Fate.PRICE_WRONG:
            pusd = pusd * 11 // 10
        elif fate is Fate.ROUNDED:
            pusd -= 499
        ours.append(
            charge(
                id=f"charge-{number}", at=at, model=true.model, provider_ref=id if refs[0] else None, status=status,
                input_tokens=1000 + number, cached_input_tokens=7, output_tokens=tokens, cost_pusd=pusd,
                usage_source=source,
            )
        )  # fmt: skip
    return ours, theirs


def write_export(path: Path, lines: list[dict[str, Any]], columns: tuple[str, ...] = COLUMNS) -> Path:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(lines)
    return path


def compared(store: Store, path: Path, **window: Any) -> AbstractContextManager[Comparison]:
    return compare(store, Export(path), provider="anvil", **window)


def applied(store: Store, path: Path, **window: Any) -> Applied:
    log = ChangeLog(store, lambda: NOON)
    with compared(store, path, **window) as comparison:
        return apply(comparison, store, SqlBank(store), log, file=path, at=NOON, by="cli:ann")


def spent_pusd(store: Store, **which: Any) -> int:
    return sum(row.cost_pusd for row in spend(store, [], Which(**which)))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store that is emptied, not made anew, between examples."""
    store = Store(str(tmp_path_factory.mktemp("kept") / "accounts.db"))
    store.open()
    yield store
    store.close()


def emptied(store: Store) -> Store:
    with store.writing() as connection:
        connection.execute(delete(charges))
    return store


KEPT = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=120, deadline=None)


@KEPT
@given(requests)
def test_every_difference_is_listed_under_its_cause_and_none_is_left(
    kept: Store, tmp_path: Path, made: list[Request]
) -> None:
    ours, theirs = books(made)
    if not theirs:
        return
    store, path = emptied(kept), write_export(tmp_path / "export.csv", theirs)
    write(store, *ours)
    billed_pusd = sum(r.cost_nusd * 1000 for r in made if r.fate not in (Fate.LOST_THERE, Fate.STANDS_UNBILLED))
    with compared(store, path, **WINDOW) as before:
        assert Counter({cause: each.count for cause, each in before.causes.items()}) == Counter(
            request.fate.cause for request in made if request.fate.cause is not None
        )
        assert (before.ours_pusd, before.theirs_pusd) == (sum(one.cost_pusd for one in ours), billed_pusd)
        for finding in before.findings():
            if finding.charge is not None:
                assert finding.cause is made[int(finding.charge.removeprefix("charge-"))].fate.cause
    applied(store, path, **WINDOW)
    assert spent_pusd(store) == billed_pusd
    with compared(store, path, **WINDOW) as after:
        assert (after.differences, after.ours_pusd, after.theirs_pusd) == (0, billed_pusd, billed_pusd)
    assert applied(store, path, **WINDOW) == Applied()


def by_days(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    sums: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for line in lines:
        day = datetime.datetime.fromtimestamp(line["at"], datetime.UTC).date().isoformat()
        found = sums[day, line["model"]]
        found.update({name: line[name] for name in COLUMNS[3:6]})
        found["nusd"] += round(float(line["cost_usd"]) * 10**9)
    return [
        {"day": day, "model": model, **found, "cost_usd": usd_text(found["nusd"] * 1000)}
        for (day, model), found in sums.items()
    ]


@KEPT
@given(requests)
def test_days_come_to_what_was_billed(kept: Store, tmp_path: Path, made: list[Request]) -> None:
    made = [msgspec.structs.replace(true, cost_nusd=true.cost_nusd % 10**6 + 100) for true in made]
    ours, theirs = books(made)
    if not theirs:
        return
    days = by_days(theirs)
    store, path = emptied(kept), write_export(tmp_path / "days.csv", days, ("day", *COLUMNS[2:]))
    write(store, *ours)
    whole = {"since": NOON - 43_200, "until": NOON + 86_400 * 3 - 43_200}
    applied(store, path, **whole)
    billed_pusd = sum(r.cost_nusd * 1000 for r in made if r.fate not in (Fate.LOST_THERE, Fate.STANDS_UNBILLED))
    assert spent_pusd(store) == billed_pusd
    assert spent_pusd(store, status="standing") == 0
    with compared(store, path, **whole) as after:
        assert (after.differences, after.ours_pusd, after.theirs_pusd) == (0, billed_pusd, billed_pusd)
    assert applied(store, path, **whole) == Applied()


def line(id: str = "answer", **changes: Any) -> dict[str, Any]:
    values = {"id": id, "at": NOON, "model": "large", "input_tokens": 10, "output_tokens": 5, "cost_usd": "0.002"}
    return values | {"cached_input_tokens": 0} | changes


def matching(id: str = "answer", **changes: Any) -> Charge:
    values: dict[str, Any] = {"provider_ref": id, "input_tokens": 10, "output_tokens": 5, "cost_pusd": 2 * 10**9}
    return charge(**values | changes)


def test_a_standing_charge_frees_what_was_reserved_for_it(store: Store, tmp_path: Path) -> None:
    budget = "tenant:acme:usd:month"
    with store.writing() as connection:
        row = {"allowance": budget, "period_start": 5, "amount": 10**9, "settled": 7, "leased": 5 * 10**6}
        connection.execute(insert(counters).values(**row, alerted=0.0, overrun=0, version=1))
    write(store, matching(status=ChargeStatus.STANDING, cost_pusd=1), reserved=f'[["{budget}", 5, {4 * 10**6}]]')
    assert applied(store, write_export(tmp_path / "export.csv", [line()])) == Applied(settled=1)
    with store.reading() as connection:
        found = connection.execute(select(counters.c.settled, counters.c.leased)).one()
        left = connection.execute(select(charges.c.reserved, charges.c.status)).one()
    assert tuple(found) == (7 + 2 * 10**6, 10**6)
    assert tuple(left) == (f'[["{budget}",5,{2 * 10**6}]]', "reconciled"), "what it counts now"


def test_no_row_of_the_past_is_rewritten_and_every_correction_names_its_charge(store: Store, tmp_path: Path) -> None:
    (wrong,) = write(store, matching(usage_source="estimated", output_tokens=9, cost_pusd=5 * 10**9, tenant="bolt"))
    assert applied(store, write_export(tmp_path / "export.csv", [line()])) == Applied(corrected=1)
    first, back, anew = charges_of(store, Which())
    assert first == wrong
    assert (back.id, back.cost_pusd, back.output_tokens, back.tenant) == (f"{wrong.id}/1", -5 * 10**9, -9, "bolt")
    assert (anew.id, anew.cost_pusd, anew.output_tokens, anew.tenant) == (f"{wrong.id}/2", 2 * 10**9, 5, "bolt")
    assert "as billed in export.csv" in (anew.note or "")
    (row,) = spend(store, [By.TENANT])
    assert (row.requests, row.attempts, row.output_tokens) == (1, 1, 5)
    assert (row.estimated_pusd, row.reconciled_pusd, row.cost_pusd) == (0, 2 * 10**9, 2 * 10**9)


def test_a_bill_that_is_corrected_later_is_followed(store: Store, tmp_path: Path) -> None:
    write(store, matching())
    for usd in ("0.003", "0.001", "-0.004"):
        path = write_export(tmp_path / "export.csv", [line(cost_usd=usd)])
        applied(store, path)
        assert usd_text(spent_pusd(store)) == usd_text(int(usd.replace("0.", "")) * 10**9)
        with compared(store, path) as after:
            assert after.differences == 0


@pytest.mark.parametrize("ref", ["answer", None])
def test_what_was_late_is_booked_again_once_it_is_billed(store: Store, tmp_path: Path, ref: str | None) -> None:
    write(store, matching(provider_ref=ref))
    early = write_export(tmp_path / "early.csv", [line("other", at=NOON - 60)])
    applied(store, early, **WINDOW)
    assert spent_pusd(store) == 2 * 10**9, "the other"
    late = write_export(tmp_path / "late.csv", [line("other", at=NOON - 60), line()])
    applied(store, late, **WINDOW)
    assert spent_pusd(store) == 4 * 10**9
    with compared(store, late, **WINDOW) as after:
        assert after.differences == 0


def test_what_is_changed_is_audited_before_it_is_changed(store: Store, tmp_path: Path) -> None:
    write(store, matching(cost_pusd=10**9))
    applied(store, write_export(tmp_path / "export.csv", [line()]))
    (row,) = ChangeLog(store, lambda: NOON).page()
    assert (row.actor, row.action, row.subject) == ("cli:ann", "spend.reconcile", "provider:anvil")
    after = msgspec.json.decode(row.after or b"")
    assert (after["file"], after["differences"], after["theirs_usd"]) == ("export.csv", 1, "0.002")


def test_the_same_file_applied_by_two_at_once_counts_once(store: Store, tmp_path: Path) -> None:
    write(store, matching(cost_pusd=10**9))
    path = write_export(tmp_path / "export.csv", [line(), line("other"), line("", output_tokens=77)])
    log = ChangeLog(store, lambda: NOON)
    with compared(store, path) as one, compared(store, path) as other:
        for comparison in (one, other):
            apply(comparison, store, SqlBank(store), log, file=path, at=NOON, by="cli:ann")
    assert spent_pusd(store) == 6 * 10**9


class GoneBank(SqlBank):
    """Cannot be reached any more after so many charges."""

    left = 1

    def resolve(self, charge: Charge, used: Mapping[tuple[str, int], int]) -> bool:
        self.left -= 1
        if self.left < 0:
            raise StorageError("gone")
        return super().resolve(charge, used)


def test_what_broke_off_on_the_way_is_gone_on_with(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amaru.accounts.corrections.ROWS_AT_ONCE", 2)
    stands = {"status": ChargeStatus.STANDING, "usage_source": "estimated", "cost_pusd": 1}
    write(store, *(matching(f"a{n}", **(stands if n % 3 == 0 else {"cost_pusd": n})) for n in range(9)))
    path = write_export(tmp_path / "export.csv", [line(f"a{n}", at=NOON + n / 10) for n in range(1, 12)])
    log = ChangeLog(store, lambda: NOON)
    with compared(store, path, **WINDOW) as comparison:
        every = comparison.differences
        with pytest.raises(StorageError, match="gone"):
            apply(comparison, store, GoneBank(store), log, file=path, at=NOON, by="cli:ann")
    with compared(store, path, **WINDOW) as comparison:
        assert 0 < comparison.differences < every
    applied(store, path, **WINDOW)
    assert spent_pusd(store) == 11 * 2 * 10**9


@pytest.mark.parametrize(("charge_at", "line_at"), [(NOON - 5, NOON + 5), (NOON + 5, NOON - 5)])
def test_a_request_at_the_edge_of_the_window_is_one_request(
    store: Store, tmp_path: Path, charge_at: float, line_at: float
) -> None:
    write(store, matching(at=charge_at))
    path = write_export(tmp_path / "export.csv", [line(at=line_at), line("later", at=NOON - 4000)])
    with compared(store, path, since=NOON, until=NOON + 3600) as comparison:
        assert comparison.causes.keys() == {Cause.WINDOW}
        assert (comparison.differences, comparison.outside) == (0, 1)


def test_without_a_window_only_the_span_of_the_lines_is_compared(store: Store, tmp_path: Path) -> None:
    write(store, matching(), matching("earlier", at=NOON - 4000), matching("later", at=NOON + 4000))
    with compared(store, write_export(tmp_path / "export.csv", [line()])) as comparison:
        assert (comparison.differences, comparison.agreed) == (0, 1)


def test_ids_that_are_not_of_answers_are_noticed(store: Store, tmp_path: Path) -> None:
    write(store, matching())
    with compared(store, write_export(tmp_path / "export.csv", [line("row-1")])) as comparison:
        assert comparison.ids_unknown
        assert comparison.causes.keys() == {Cause.MISSING_HERE, Cause.MISSING_THERE}


def test_models_can_be_told_by_other_names(store: Store, tmp_path: Path) -> None:
    write(store, matching(provider_ref=None))
    path = write_export(
        tmp_path / "export.csv", [line("", model="Large (EU)"), line("", model="Large (EU)", at=NOON + 9)]
    )
    renames = {"Large (EU)": "large"}
    with compared(store, path, renames=renames) as comparison:
        assert comparison.causes.keys() == {Cause.MISSING_HERE}
    applied(store, path, renames=renames)
    with compared(store, path, renames=renames) as comparison:
        assert comparison.differences == 0


def day(**changes: Any) -> dict[str, Any]:
    values = {"day": "2026-11-01", "model": "large", "input_tokens": 20, "output_tokens": 10, "cost_usd": "0.004"}
    return values | {"cached_input_tokens": 0, "requests": 2} | changes


@pytest.mark.parametrize(
    ("ours", "theirs", "cause"),
    [
        ([{}, {}], [{}], None),
        ([{}, {"usage_source": "estimated"}], [{}], None),
        ([{}, {"usage_source": "estimated"}], [{"output_tokens": 12}], Cause.UNKNOWN_USAGE),
        ([{}, {"status": ChargeStatus.STANDING}], [{}], Cause.UNKNOWN_USAGE),
        ([{}], [{}], Cause.MISSING_HERE),
        ([], [{}], Cause.MISSING_HERE),
        ([{}, {}, {}], [{}], Cause.MISSING_THERE),
        ([{}, {}], [{"model": "other", "input_tokens": 0, "output_tokens": 0, "cost_usd": "0"}], Cause.MISSING_THERE),
        ([{}, {}], [{"output_tokens": 12}], Cause.TOKENS),
        ([{}, {}], [{"cost_usd": "0.0060"}], Cause.PRICE),
        ([{}, {}], [{"cost_usd": "0.0041"}], Cause.ROUNDING),
        ([{}, {}], [{"cost_usd": "0.002", "input_tokens": 10, "output_tokens": 5, "requests": 1}] * 2, None),
    ],
)
def test_the_cause_of_a_day(
    store: Store, tmp_path: Path, ours: list[dict[str, Any]], theirs: list[dict[str, Any]], cause: Cause | None
) -> None:
    write(store, *(matching(**one) for one in ours))
    columns = ("day", "model", "requests", *COLUMNS[3:])
    path = write_export(tmp_path / "days.csv", [day(**one) for one in theirs], columns)
    with compared(store, path) as comparison:
        assert list(comparison.causes) == ([] if cause is None else [cause])


def test_an_export_without_costs_is_compared_and_not_applied(store: Store, tmp_path: Path) -> None:
    write(store, matching(), matching("other", output_tokens=6, at=NOON + 1))
    path = write_export(tmp_path / "export.csv", [line(), line("other", at=NOON + 1)], COLUMNS[:-1])
    with compared(store, path) as comparison:
        assert comparison.causes.keys() == {Cause.TOKENS}
        assert comparison.ours_pusd == comparison.theirs_pusd
    with pytest.raises(AccountError, match="tells tokens and no costs: nothing was changed"):
        applied(store, path)


def test_whose_export_it_is_must_be_clear(store: Store, tmp_path: Path) -> None:
    path = write_export(tmp_path / "export.csv", [line()])
    with pytest.raises(AccountError, match="no charges: say whose export it is"), compare(store, Export(path)):
        pass
    write(store, matching())
    with compare(store, Export(path)) as comparison:
        assert (comparison.provider, comparison.differences) == ("anvil", 0)
    misspelt = pytest.raises(AccountError, match='no charges of "anvli", but of anvil')
    with misspelt, compare(store, Export(path), provider="anvli"):
        pass
    write(store, matching("other", provider="birch"))
    with pytest.raises(AccountError, match="charges of anvil, birch"), compare(store, Export(path)):
        pass


def test_a_span_of_time_has_a_begin_and_then_an_end(store: Store, tmp_path: Path) -> None:
    path = write_export(tmp_path / "export.csv", [line()])
    with pytest.raises(AccountError, match="--since must be before --until"), compared(store, path, since=5, until=5):
        pass


def test_an_export_with_a_line_that_cannot_be_read_changes_nothing(store: Store, tmp_path: Path) -> None:
    path = write_export(tmp_path / "export.csv", [line(), line("other", cost_usd="free")])
    with pytest.raises(AccountError, match=r"export\.csv:3: cost_usd"):
        applied(store, path)
    assert spent_pusd(store) == 0
