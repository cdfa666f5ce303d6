"""Stored decisions become a data set: whole, in bounded pieces, without what must not be in it, whatever is damaged."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logged_samples import OFFERS, START, Gateway, changed, logged_store, store_at, write

from amaru.domain import FailureKind, Outcome, Provenance, Usage
from amaru.errors import StorageError
from amaru.learning.dataset import build, files_of, read_manifest, read_rows
from amaru.learning.dataset_schema import SCHEMA, DatasetError, Filters, LoggedDecision
from amaru.learning.dataset_source import StoredRows
from amaru.routing import kernels as k
from amaru.routing.ranking import unpack


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return logged_store(tmp_path_factory.mktemp("gateway") / "amaru.db", 300)


def by_sql(store: Path, *statements: tuple[str, tuple[object, ...]]) -> None:
    with closing(sqlite3.connect(store)) as connection, connection:
        for statement, values in statements:
            connection.execute(statement, values)


def test_a_row_holds_the_decision_and_what_came_of_it(tmp_path: Path) -> None:
    gateway = Gateway()
    records = [gateway.ask() for _ in range(200)]
    build(write(tmp_path / "amaru.db", gateway, records), tmp_path / "out")
    rows = list(read_rows(tmp_path / "out"))
    assert [row.id for row in rows] == [record.id for record in records]
    assert {row.explored for row in rows} == {True, False}
    assert any(row.further for row in rows)
    for row, record in zip(rows, records, strict=True):
        figures = unpack(record.ranking)
        first = record.attempts[0]
        assert row.offers == [OFFERS[place].id for place in figures.rows]
        assert row.offers[row.rank.index(0)] == row.first.offer == first.offer
        assert row.unit_price_usd == figures.table[:, k.UNIT_PRICE].tolist()
        assert (row.propensity, row.propensity_exact) == (record.propensity, True)
        assert (row.first.ok, row.first.failure) == (first.failure is None, first.failure)
        assert row.first.latency_ms == first.first_token_ms  # a stream's latency is its first token's
        assert row.first.total_ms == first.latency_ms
        assert row.first.ended_at == pytest.approx(record.at + (first.started_ms + first.latency_ms) / 1e3)
        assert [tried.offer for tried in row.further] == [attempt.offer for attempt in record.attempts[1:]]
        assert row.workload() == changed_session(figures.workload)
        assert (row.ok, row.latency_ms, row.cost_usd) == (record.ok, record.latency_ms, record.cost_usd)
        # The figures can be scored again: all that scoring reads is there.
        again = row.figures({offer.id: place for place, offer in enumerate(OFFERS)})
        read = [k.UNIT_PRICE, k.COST, k.LATENCY, k.TRUST, k.POSTED_MS, k.LOAD, k.SUCCESS_SEEN]
        assert again.table[:, read].tolist() == figures.table[:, read].tolist()
        assert again.rows.tolist() == figures.rows.tolist()


def changed_session(workload: object) -> object:
    return workload  # packed without its session


def test_utility_is_the_tenants_over_the_best_posted_figures(store: Path) -> None:
    for row in StoredRows(store):
        place = row.offers.index(row.first.offer)
        w = row.weights
        expected = 0.0
        if row.first.ok:
            expected = (
                w.price * min(row.unit_price_usd) / row.unit_price_usd[place]
                + w.latency * min(row.posted_ms) / (row.first.latency_ms or 0.0)
                + w.reputation * row.reputation[place] / 100.0
                + w.availability
            ) / (w.price + w.latency + w.reputation + w.availability)
        assert row.utility == pytest.approx(expected)


def test_neither_sessions_nor_providers_words_are_in_it(store: Path, tmp_path: Path) -> None:
    build(store, tmp_path / "out")
    file, beside = files_of(tmp_path / "out")
    assert set(pl.read_parquet_schema(file)) == set(LoggedDecision.__struct_fields__) == set(SCHEMA)
    text = pl.read_parquet(file).write_json() + beside.read_text()
    for secret in ("conversation-", "hash-of-a-session", "secret words"):
        assert secret not in text
    assert "server_error" in text  # the kind is there


def test_the_manifest_says_what_it_is_of(store: Path, tmp_path: Path) -> None:
    made = build(store, tmp_path / "out", filters=Filters(tenant="t1"), code="9.9")
    assert made == read_manifest(tmp_path / "out")
    assert (made.rows, made.policies, made.code, made.corrupt) == (150, {"rules": 150}, "9.9", 0)
    assert (made.first_at, made.last_at) == (START + 0.5, START + 149.5)
    assert list(made.boards.values()) == [OFFERS]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["filters"]["tenant"] == "t1"


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400))
def test_pages_and_parts_of_any_size_give_the_same_rows(
    store: Path, tmp_path_factory: pytest.TempPathFactory, page: int, part: int
) -> None:
    out = tmp_path_factory.mktemp("out")
    build(store, out, page_rows=page, part_rows=max(part, 20))
    assert list(read_rows(out, page_rows=max(page, 20))) == list(StoredRows(store))


def test_filters_are_by_time_tenant_and_resource(store: Path) -> None:
    def count(**filters: object) -> int:
        return sum(1 for _ in StoredRows(store, Filters(**filters)))  # type: ignore[arg-type]  # a test's short hand

    assert count() == 300
    assert count(since=START + 50.0, until=START + 100.0) == 100
    assert count(tenant="t0", resource="m") == 150
    assert count(resource="another") == 0


def test_a_gateway_that_writes_meanwhile_is_neither_stopped_nor_waited_for(tmp_path: Path) -> None:
    gateway = Gateway()
    path = write(tmp_path / "amaru.db", gateway, [gateway.ask() for _ in range(50)])
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE decisions SET tenant = 'uncommitted'")
        rows = iter(StoredRows(path, page_rows=10))
        assert next(rows).tenant == "t0"
        writer.execute("COMMIT")  # no lock of a reader is in its way
        writer.execute("DELETE FROM decisions WHERE id > ?", (f"{29:032x}",))
        assert len(list(rows)) == 29  # what retention took meanwhile is not there


def test_feedback_is_the_outcome_of_what_callers_placed_themselves(tmp_path: Path) -> None:
    gateway = Gateway(exploration=0.0)
    records = [gateway.recommend() for _ in range(4)]

    def report(n: int, **fields: object) -> tuple[str, Outcome]:
        named = {"at": START + 10.0 + n, "ok": True, "offer": "gpu/A100", "latency_ms": 800.0, "cost_usd": 8.0}
        return records[n].id, Outcome(records[n].id, **(named | fields), reported=True)  # type: ignore[arg-type]

    feedback = [report(0), report(1, ok=False, failure=FailureKind.BAD_CREDENTIALS), report(2, offer="gpu2/A100")]
    rows = list(StoredRows(path := write(tmp_path / "amaru.db", gateway, records, feedback)))
    assert [row.id for row in rows] == [record.id for record in records[:3]]  # nothing was reported of the last
    elsewhere, own_fault, first = rows
    assert all(row.reported for row in rows)
    assert (elsewhere.first.offer, elsewhere.first.latency_ms, elsewhere.first.expected_cost_usd) == (
        "gpu/A100",
        800.0,
        4.0,
    )
    # Charged twice what is posted: 4 USD an hour beside the best of 2, 800 ms beside the best of 200.
    assert elsewhere.utility == pytest.approx(0.4 * 0.5 + 0.3 * 0.25 + 0.15 * 0.5 + 0.15)
    assert (own_fault.first.blame, own_fault.utility) == (False, None)
    assert unpack(records[0].ranking).order == [OFFERS.index(offer) for offer in OFFERS[:3:-1]]  # gpu2 before gpu
    assert (first.first.offer, first.propensity_exact, elsewhere.propensity_exact) == ("gpu2/A100", True, False)
    source = StoredRows(path)
    assert len(list(source)) == 3
    assert (source.seen, source.without_outcome) == (4, 1)


def test_the_callers_own_fault_and_a_caller_who_left_are_no_outcomes_to_judge_by(tmp_path: Path) -> None:
    gateway = Gateway(exploration=0.0)
    records = [gateway.ask() for _ in range(3)]
    attempt = records[0].attempts[0]
    usage = Usage(1, 1, source=Provenance.PROVIDER)
    bad = changed_attempt(attempt, failure=FailureKind.BAD_REQUEST, first_token_ms=None, detail="no such field")
    late = changed_attempt(attempt, failure=FailureKind.NO_ANSWER, first_token_ms=None, out_of_time=True)
    left = changed_attempt(attempt, failure=None, detail="the caller went away", usage=usage)
    records = [
        changed(record, attempts=(tried,), ok=False) for record, tried in zip(records, (bad, late, left), strict=True)
    ]
    source = StoredRows(write(tmp_path / "amaru.db", gateway, records))
    rows = list(source)
    assert [(row.first.failure, row.first.blame, row.utility) for row in rows] == [
        (FailureKind.BAD_REQUEST, False, None),
        (FailureKind.NO_ANSWER, False, None),
    ]
    assert source.without_outcome == 1


def changed_attempt(attempt: object, **fields: object) -> object:
    return changed(attempt, **fields)  # type: ignore[arg-type]  # any struct


# ---- damage -----------------------------------------------------------------------------------------------------


def test_damaged_rows_are_counted_and_named_and_the_others_are_there(tmp_path: Path) -> None:
    gateway = Gateway()
    store = write(tmp_path / "amaru.db", gateway, [gateway.ask() for _ in range(60)])

    def key(n: int) -> str:
        return f"{n:032x}"

    one = "UPDATE decisions SET {} WHERE id = ?"
    by_sql(
        store,
        (one.format("ranking = x'00ff'"), (key(3),)),
        (one.format("ranking = 'text where bytes belong'"), (key(7),)),
        (one.format("attempts = '[{\"offer\": 1}]'"), (key(11),)),
        (one.format("kind = 'poetry'"), (key(13),)),
        (one.format("board_version = 'gone'"), (key(17),)),
        (one.format("at = 'yesterday'"), (key(19),)),
        (one.format("propensity = 7"), (key(23),)),
        (one.format("tenant = CAST(x'ff41' AS TEXT)"), (key(29),)),  # no UTF-8: SQLite's driver cannot even read it
    )
    made = build(store, tmp_path / "out", page_rows=8)
    damaged = {key(n) for n in (3, 7, 11, 13, 17, 19, 23, 29)}
    assert (made.rows, made.corrupt) == (52, 8)
    assert {row.id for row in made.corrupt_rows} == damaged
    assert all(row.why for row in made.corrupt_rows)
    assert {row.id for row in read_rows(tmp_path / "out")} == {key(n) for n in range(60)} - damaged


def test_a_store_with_nothing_to_learn_from_is_refused_and_what_was_there_stays(store: Path, tmp_path: Path) -> None:
    build(store, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(DatasetError, match=r"nothing to learn from: 0 decisions passed the filters"):
        build(store, tmp_path / "out", filters=Filters(tenant="nobody"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_run_that_fails_midway_leaves_what_was_there_and_nothing_beside_it(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(store, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def no_more(*_: object) -> None:
        raise StorageError("the disk went away")

    monkeypatch.setattr(StoredRows, "_page", no_more)
    with pytest.raises(StorageError, match="the disk went away"):
        build(store, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "there is no such file"), (b"no database" * 100, "not a database"), ("CREATE TABLE a (b)", "storage.path")],
)
def test_what_is_no_store_is_refused(tmp_path: Path, content: bytes | str | None, words: str) -> None:
    path = tmp_path / "other.db"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        by_sql(path, (content, ()))
    with pytest.raises((DatasetError, StorageError), match=words):
        StoredRows(path)


def test_a_store_of_a_newer_amaru_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "amaru.db"
    write(path, Gateway(), [])
    by_sql(path, ("UPDATE amaru_meta SET value = '99' WHERE key = 'schema_version'", ()))
    with pytest.raises(DatasetError, match="newer amaru"):
        StoredRows(path)


def test_reading_refuses_what_was_changed_or_is_missing(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.parquet"
    build(store, out)
    assert files_of(out) == (out, tmp_path / "one.manifest.json")
    read_manifest(out)
    out.write_bytes(out.read_bytes() + b"x")
    with pytest.raises(DatasetError, match="digest"):
        read_manifest(out)
    beside = tmp_path / "one.manifest.json"
    beside.write_text(beside.read_text().replace("amaru-dataset-1", "amaru-dataset-9"))
    with pytest.raises(DatasetError, match="amaru-dataset-9"):
        read_manifest(out)
    with pytest.raises(DatasetError, match="amaru dataset build"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=f"is no data set. Of a store: amaru dataset build --store {store}"):
        read_manifest(store)
    with pytest.raises(DatasetError, match="amaru dataset build"):
        list(read_rows(tmp_path / "nowhere"))


def test_rows_of_another_shape_are_refused_by_number(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.parquet"
    build(store, out)
    frame = pl.read_parquet(out).with_columns(
        kind=pl.when(pl.int_range(pl.len()) == 42).then(pl.lit("poetry")).otherwise("kind")
    )
    frame.write_parquet(out)
    with pytest.raises(DatasetError, match="row 42"):
        list(read_rows(out, page_rows=30))


def test_the_store_is_the_gateways_own(tmp_path: Path) -> None:
    """No table, index or setting of it is touched: the gateway opens it again as it was."""
    path = logged_store(tmp_path / "amaru.db", 20)
    before = path.read_bytes()
    build(path, tmp_path / "out")
    assert path.read_bytes() == before
    store_at(path)
