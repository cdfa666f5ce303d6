"""The index finds what the log holds, in either database, and is made anew from the log whatever becomes of it."""

from __future__ import annotations

import importlib.util
import os
import re
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_samples import DIGEST, SAMPLES, T0, FakeLog, at
from sqlalchemy import create_engine, inspect

from amaru.errors import LedgerBusy, LedgerError
from amaru.ledger import index as index_module
from amaru.ledger import index_engine
from amaru.ledger.index import Found, Index
from amaru.ledger.index_rows import Row
from amaru.ledger.index_schema import tables_of
from amaru.ledger.merkle import leaf_hash
from amaru.ledger.receipts import Decision, Incident, leaf_of, read_leaf
from amaru.ledger.search import Search, SearchError, parse_query
from amaru.ledger.view import Pruned
from amaru.ledger.words import words_of

POSTGRESQL = os.environ.get("AMARU_TEST_POSTGRESQL", "postgresql://127.0.0.1:5432/test")

OpenIndex = Callable[..., Index]


def postgresql_problem() -> str:
    """Why PostgreSQL cannot be tried; empty: it can."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed"
    try:
        engine = create_engine(
            POSTGRESQL.replace("postgresql:", "postgresql+psycopg:"), connect_args={"connect_timeout": 30}
        )
        with engine.connect():
            return ""
    except Exception as error:  # whatever keeps it from being tried
        return f"no PostgreSQL at AMARU_TEST_POSTGRESQL ({type(error).__name__})"


@pytest.fixture(scope="session")
def postgresql() -> str:
    problem = postgresql_problem()
    if problem:
        pytest.skip(problem)
    return POSTGRESQL


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql"))
    return str(tmp_path / "index.db")


@pytest.fixture
def origin() -> str:
    """Of a log of this test's own: in PostgreSQL each has tables of its own."""
    return f"test.example/{uuid.uuid4()}"


@pytest.fixture
def open_index(origin: str) -> Iterator[OpenIndex]:
    opened: list[Index] = []

    def open_one(url: str, log: FakeLog, told: Callable[[str], None] = lambda _: None) -> Index:
        log.origin = origin
        made = Index(url, log, told=told)
        opened.append(made)
        return made

    yield open_one
    for one in opened:
        if "://" in one.place:
            with one._engine.begin() as connection:  # the database is shared: leave it as it was
                one._tables.drop(connection)
        one.close()


def leaves(found: list[Found]) -> list[int]:
    return [one.leaf for one in found]


def ask(index: Index, query: str, limit: int = 50) -> list[int]:
    return leaves(index.find(parse_query(query, T0 + 3600), limit))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("ai-mesh routing decisions", [2]),
        ("decisions", [7, 6, 2]),
        ("ai-mesh", [3, 2, 1]),
        ("mesh ai", [3, 2, 1]),
        ('"mesh ai"', []),
        ("component:psi-field type:memory", [5]),
        ("psi_field.bin", [5]),
        ("deployment", [0]),
        ("ZURICH", [0]),
        ("component:ai-mesh -north", [1]),
        ("north component:ai-mesh", [3, 2]),
        ("north component:ai-mesh type:incident -drain", [3]),
        ("telemetry component:ai-mesh", []),
        ("-north -ledger", [7, 5, 1, 0]),
        ("nort*", [4, 3, 2]),
        ("component:ai-mesh type:incident,training", [3, 1]),
        ("ref:d-0001", [2]),
        ("by:maria", [7]),
        ("version:1.4.2", [0]),
        (f"digest:{DIGEST}", [0]),
        (f"digest:{'cd' * 32}", [5]),
        ("architecture", [6]),
        ("since:2026-09-21T14:18:20Z", [7, 6, 5]),
        ("until:2026-09-21T14:14:20Z", [0]),
        ("nothing-of-that", []),
        ("type:unknown", []),
        ('" OR 1=1 --', []),
        ("'; DROP TABLE receipts", []),
        ("NEAR(ai mesh)", []),
        ("{text}:ai ^mesh", []),
    ],
)
def test_what_is_found(url: str, open_index: OpenIndex, query: str, expected: list[int]) -> None:
    index = open_index(url, FakeLog.of())
    assert index.catch_up() == len(SAMPLES)
    assert ask(index, query) == expected


def test_found_are_the_newest_first_with_the_hash_of_their_entry(url: str, open_index: OpenIndex) -> None:
    log = FakeLog.of()
    index = open_index(url, log)
    index.catch_up()
    assert index.find(parse_query("ai-mesh", T0), 2) == [
        Found(3, leaf_hash(log.kept[3])),
        Found(2, leaf_hash(log.kept[2])),
    ]
    assert index.count(parse_query("ai-mesh", T0)) == {"decision": 1, "incident": 1, "training": 1}


def test_what_a_gateway_logged_of_requests_is_told_from_what_people_decided(url: str, open_index: OpenIndex) -> None:
    index = open_index(url, FakeLog.of())
    index.catch_up()
    assert leaves(index.find(Search(types=("decision",), traffic=False), 9)) == [7]
    assert index.count(Search(traffic=True)) == {"decision": 1}
    assert sum(index.count(Search(traffic=False)).values()) == len(SAMPLES) - 1


def test_entries_are_found_by_the_beginning_of_their_hash(url: str, open_index: OpenIndex) -> None:
    log = FakeLog.of()
    index = open_index(url, log)
    index.catch_up()
    for leaf, entry in enumerate(log.kept):
        whole = leaf_hash(entry).hex()
        for length in (64, 9, 8):
            assert Found(leaf, leaf_hash(entry)) in index.by_hash(whole[:length])
    assert index.by_hash("0" * 64) == []
    assert len(index.by_hash("")) == len(SAMPLES)
    with pytest.raises(ValueError, match="hex"):
        index.by_hash("xyz")


def test_it_catches_up_with_what_was_appended_and_reads_nothing_twice(url: str, open_index: OpenIndex) -> None:
    log = FakeLog.of(SAMPLES[:3])
    index = open_index(url, log)
    assert index.catch_up() == 3
    log.kept += FakeLog.of().kept[3:]
    log.reads.clear()
    assert index.catch_up() == 5
    assert log.reads == [(3, 8)]
    assert index.catch_up() == 0
    assert ask(index, "ai-mesh") == [3, 2, 1]


def test_a_long_log_is_taken_in_by_batches(url: str, open_index: OpenIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "BATCH_ROWS", 256)
    log = FakeLog.of([Incident(at=at(n), component=f"c{n % 5}") for n in range(700)])
    index = open_index(url, log)
    steps: list[tuple[int, int]] = []

    assert index.catch_up(lambda done, size: steps.append((done, size))) == 700

    assert steps == [(0, 700), (256, 700), (512, 700), (700, 700)]
    assert log.reads == [(0, 256), (256, 512), (512, 700)]
    assert len(ask(index, "component:c3", limit=1000)) == 140


def test_killed_between_batches_it_goes_on_where_it_was(
    url: str, open_index: OpenIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "BATCH_ROWS", 256)
    log = FakeLog.of([Incident(at=at(n), component="c") for n in range(600)])

    def kill(done: int, size: int) -> None:
        if done == 256:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_index(url, log).catch_up(kill)
    log.reads.clear()
    again = open_index(url, log)
    assert again.catch_up() == 344
    assert log.reads[0] == (256, 512)
    assert leaves(again.find(parse_query("component:c", T0), 1000)) == list(range(599, -1, -1))


def indexes_in(index: Index) -> set[str]:
    there = inspect(index._engine)
    names = (index._tables.receipts.name, index._tables.digests.name)
    return {str(one["name"]) for name in names for one in there.get_indexes(name)}


def test_many_rows_are_taken_in_without_indexes_which_are_made_after_them(
    url: str, open_index: OpenIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "MANY_ROWS", 4)
    monkeypatch.setattr(index_module, "BATCH_ROWS", 4)
    monkeypatch.setattr(index_module, "READ_ENTRIES", 4)
    log = FakeLog.of()
    index = open_index(url, log)
    whole = {str(one.name) for one in index._tables.indexes}
    seen: list[set[str]] = []

    def killed(done: int, _: int) -> None:
        seen.append(indexes_in(index))
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.catch_up(killed)
    assert seen == [set(), set()]
    assert ask(index, "ref:d-0001 ai-mesh") == [2], "slower, and right all the same"
    assert index.catch_up() == 4
    assert indexes_in(index) == whole
    log.kept += log.kept[:3]
    seen.clear()
    index.catch_up(lambda _done, _size: seen.append(indexes_in(index)))
    assert set(map(frozenset, seen)) == {frozenset(whole)}, "few more are taken in beside them"
    log.kept += log.kept * 2
    seen.clear()
    index.catch_up(lambda _done, _size: seen.append(indexes_in(index)))
    assert (seen[0], seen[-1]) == (set(), whole), "and many more without"
    assert len(ask(index, "ref:d-0001")) == 6


def test_two_at_once_take_each_entry_in_once(url: str, open_index: OpenIndex) -> None:
    log = FakeLog.of([Incident(at=at(n), component="c") for n in range(3000)])
    indices = [open_index(url, log) for _ in range(3)]
    counts: list[int] = []
    threads = [threading.Thread(target=lambda one=one: counts.append(one.catch_up())) for one in indices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 3000
    assert indices[0].count(parse_query("component:c", T0)) == {"incident": 3000}


def test_who_sees_less_of_the_log_leaves_an_index_that_is_ahead(url: str, open_index: OpenIndex) -> None:
    """Another process recorded and indexed after this one read its checkpoint."""
    behind = FakeLog.of()
    behind.seen = 4
    index = open_index(url, behind)
    index.catch_up()
    whole = FakeLog.of()
    assert open_index(url, whole).catch_up() == len(SAMPLES) - 4
    assert ask(index, "-nothing") == [3, 2, 1, 0]
    assert index.count(parse_query("type:adr", T0)) == {}
    assert index.by_hash(leaf_hash(whole.kept[6]).hex()) == []

    # And one that opens it only now looks again, before it takes it for another log's.
    told: list[str] = []
    late = FakeLog.of()
    late.seen = 4
    assert open_index(url, late, told.append).catch_up() == 0
    assert (late.size, told) == (len(SAMPLES), [])


def test_an_index_of_another_log_is_built_anew(url: str, open_index: OpenIndex) -> None:
    """A log that was put back from a copy, and went on otherwise: same name, shorter or with another history."""
    first = FakeLog.of()
    open_index(url, first).catch_up()
    for other in (FakeLog.of(SAMPLES[:3]), FakeLog.of(SAMPLES[3:])):
        told: list[str] = []
        index = open_index(url, other, told.append)
        assert index.catch_up() == other.size
        assert "another log" in told[0]
        assert len(index.by_hash("", 100)) == other.size


def test_an_index_that_lacks_a_table_is_built_anew(url: str, open_index: OpenIndex) -> None:
    log = FakeLog.of()
    index = open_index(url, log)
    index.catch_up()
    with index._engine.begin() as connection:
        index._tables.digests.drop(connection)
    told: list[str] = []
    again = open_index(url, log, told.append)
    assert again.catch_up() == len(SAMPLES)
    assert "not whole" in told[0]
    assert ask(again, f"digest:{DIGEST}") == [0]


def test_made_by_another_version_it_is_built_anew(
    url: str, open_index: OpenIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FakeLog.of()
    open_index(url, log).catch_up()
    monkeypatch.setattr(index_module, "SCHEMA_VERSION", "of-tomorrow")
    assert open_index(url, log).catch_up() == len(SAMPLES)


def test_it_can_be_built_anew_on_demand(url: str, open_index: OpenIndex) -> None:
    index = open_index(url, FakeLog.of())
    index.catch_up()
    assert index.rebuild() == len(SAMPLES)
    assert ask(index, "architecture") == [6]


def test_what_was_pruned_leaves_its_hash_and_no_word(url: str, open_index: OpenIndex, tmp_path: Path) -> None:
    log = FakeLog.of()
    index = open_index(url, log)
    index.catch_up()
    log.pruned = Pruned(4, 7)
    index.catch_up()

    assert ask(index, "ai-mesh") == []
    assert ask(index, f"digest:{DIGEST}") == []
    assert ask(index, "type:pruned") == [3, 2, 1, 0]
    assert ask(index, "since:2026-09-21T14:00:00Z") == [7, 6, 5, 4]
    assert index.by_hash(leaf_hash(log.kept[1]).hex()) == [Found(1, leaf_hash(log.kept[1]))]
    index.close()
    for file in tmp_path.iterdir():
        assert b"zurich" not in file.read_bytes(), file

    # And the same again from nothing.
    assert index.rebuild() == len(SAMPLES)
    assert ask(index, "type:pruned") == [3, 2, 1, 0]
    assert ask(index, "ai-mesh") == []


def test_what_was_read_before_it_was_pruned_is_not_kept_after(
    url: str, open_index: OpenIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway prunes, and has the index forget, while another process has entries in hand for it."""
    index, gateways = open_index(url, FakeLog.of()), open_index(url, FakeLog.of())
    read = index._rows

    def slowly(at: int) -> list[Row]:
        rows = read(at)
        gateways._source.pruned = Pruned(4, 7)  # type: ignore[misc]  # a FakeLog's can be set
        gateways.forget_pruned()
        return rows

    monkeypatch.setattr(index, "_rows", slowly)
    index.catch_up()
    assert ask(index, "ai-mesh") == []
    assert ask(index, "type:pruned") == [3, 2, 1, 0]
    assert index.by_hash(leaf_hash(FakeLog.of().kept[1]).hex()) != []


def test_where_there_is_no_index_none_is_made_to_forget(tmp_path: Path, open_index: OpenIndex) -> None:
    log = FakeLog.of()
    log.pruned = Pruned(4, 7)
    open_index(str(tmp_path / "index.db"), log).forget_pruned()
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_receipt_is_there_all_the_same(url: str, open_index: OpenIndex) -> None:
    strange = [
        b"",
        b"\xff\xfe no text",
        b"[" * 60_000,
        b'{"type":"from-the-future","component":"x\\u0000y","note":"hello\\u0000 there","at":"never"}',
        b'{"type":5,"component":["a"],"deep":' + b'{"a":' * 200 + b'"abyss"' + b"}" * 200 + b"}",
        leaf_of(Decision(at=at(), component="x" * 128, note="wörd " * 700)),
        b'{"note":"' + b"w" * 60_000 + b'"}',
    ]
    index = open_index(url, FakeLog(strange))
    assert index.catch_up() == len(strange)
    assert ask(index, "type:from-the-future hello") == [3]
    assert ask(index, "word") == [5]
    assert ask(index, f"word component:{'x' * 128}") == [5]
    assert len(index.by_hash("", 100)) == len(strange)
    assert read_leaf(strange[5]) is not None


words = st.sampled_from(["ai", "mesh", "mesh-ai", "rout", "routing", "решение", "north"])
notes = st.lists(words, max_size=6).map(" ".join)
phrases = st.builds(
    lambda minus, phrase, star: f"{minus}{phrase}{star}",
    st.sampled_from(["", "", "-"]),
    words | st.lists(words, min_size=2, max_size=3).map(lambda some: '"' + " ".join(some) + '"'),
    st.sampled_from(["", "", "*"]),
)


def naive(note: str, query: str) -> bool:
    """Whether a text has what is asked for, by looking at each of its places."""
    there = words_of(f"incidents incident c {note}")
    for term in parse_query(query, T0).terms:
        n = len(term.words)
        hit = any(
            tuple(there[i : i + n - 1]) == term.words[:-1]
            and i + n <= len(there)
            and (there[i + n - 1].startswith(term.words[-1]) if term.prefix else there[i + n - 1] == term.words[-1])
            for i in range(len(there))
        )
        if hit == term.absent:
            return False
    return True


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(notes, min_size=1, max_size=8), asked=st.lists(phrases, min_size=1, max_size=3).map(" ".join))
def test_it_finds_what_a_reader_of_every_entry_finds(
    url: str, open_index: OpenIndex, texts: list[str], asked: str
) -> None:
    log = FakeLog.of([Incident(at=at(n), component="c", note=note) for n, note in enumerate(texts)])
    index = open_index(url, log)
    index.catch_up()
    assert ask(index, asked) == [n for n in range(len(texts) - 1, -1, -1) if naive(texts[n], asked)]
    index.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=60) | st.from_regex(r'[a-z"*^(){}:+\-& |!<>\'\\;]{1,30}', fullmatch=True))
def test_no_query_is_an_error_of_the_database(url: str, open_index: OpenIndex, query: str) -> None:
    index = open_index(url, FakeLog.of())
    index.catch_up()
    try:
        search = parse_query(query, T0)
    except SearchError:
        return
    index.find(search, 5)
    index.count(search)
    index.close()


# SQLite only: a file can be torn.


def test_a_deleted_index_is_built_anew(tmp_path: Path, open_index: OpenIndex) -> None:
    path, log = tmp_path / "index.db", FakeLog.of()
    open_index(str(path), log).catch_up()
    path.unlink()
    again = open_index(str(path), log)
    assert again.catch_up() == len(SAMPLES)
    assert ask(again, "decisions") == [7, 6, 2]


@pytest.mark.parametrize("damage", ["no database", "torn in its middle", "torn in a page", "empty"])
def test_a_damaged_index_is_set_aside_and_built_anew(damage: str, tmp_path: Path, open_index: OpenIndex) -> None:
    path = tmp_path / "index.db"
    log = FakeLog.of([Incident(at=at(n), component="c", note=f"number{n} of many") for n in range(2000)])
    index = open_index(str(path), log)
    index.catch_up()
    index.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    path.write_bytes(
        {
            "no database": b"this was never a database, but long enough to look like one " * 100,
            "torn in its middle": whole[: len(whole) // 2],
            "torn in a page": whole[:4096] + b"\xa5" * (len(whole) - 4096),
            "empty": b"",
        }[damage]
    )
    told: list[str] = []
    again = open_index(str(path), log, told.append)
    again.catch_up()
    assert ask(again, "number1234") == [1234]
    assert len(again.by_hash("", 5000)) == 2000
    assert bool(told) == (damage != "empty")
    assert (tmp_path / "index.db.damaged").exists() == (damage != "empty")


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path, open_index: OpenIndex) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE precious (x)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="another program's database"):
        open_index(str(path), FakeLog.of()).catch_up()
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, open_index: OpenIndex) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("years of work " * 1000)
    with pytest.raises(LedgerError, match="left as it is"):
        open_index(str(path), FakeLog.of()).catch_up()
    assert path.read_text() == "years of work " * 1000
    assert not (tmp_path / "thesis.txt.damaged").exists()


def test_two_logs_share_a_database_in_postgresql(postgresql: str) -> None:
    logs = [FakeLog.of(SAMPLES[:3]), FakeLog.of(SAMPLES[3:])]
    indices = []
    for log in logs:
        log.origin = f"test.example/{uuid.uuid4()}"
        indices.append(Index(postgresql, log))
    try:
        for index, log in zip(indices, logs, strict=True):
            assert index.catch_up() == log.size
        assert [len(index.by_hash("", 100)) for index in indices] == [3, 5]
    finally:
        for index in indices:
            with index._engine.begin() as connection:
                index._tables.drop(connection)
            index.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://u:hunter2@host/db", "mysql://…"),
        ("postgresql://u:hunter2@[::1/db", "cannot be read"),
        ("http://x", "cannot lie"),
        ("sqlite://", "cannot lie"),
    ],
)
def test_a_place_that_no_index_can_have_is_refused_without_its_password(url: str, said: str) -> None:
    with pytest.raises(LedgerError, match=re.escape(said)) as refused:
        Index(url, FakeLog.of())
    assert "hunter2" not in str(refused.value)


def test_where_another_process_is_filling_it_that_is_said_in_the_end(
    url: str, open_index: OpenIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_engine, "BUSY_S", 0.2)
    other = open_index(url, FakeLog.of())
    other.catch_up()
    log = FakeLog.of()
    log.kept += log.kept[:1]
    index = open_index(url, log)
    with other._writing(), pytest.raises(LedgerBusy, match="try again when it is done"):
        index.catch_up()
    assert index.catch_up() == 1


def test_a_database_out_of_reach_is_told_without_its_password(postgresql: str) -> None:
    index = Index("postgresql://u:hunter2@127.0.0.1:1/none", FakeLog.of())
    with pytest.raises(LedgerError, match="postgresql") as refused:
        index.catch_up()
    assert "hunter2" not in str(refused.value)


def test_a_folder_that_cannot_be_written_is_told_with_what_to_do(tmp_path: Path, open_index: OpenIndex) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LedgerError, match="cannot be made"):
        open_index(str(tmp_path / "file" / "index.db"), FakeLog.of()).catch_up()
    with pytest.raises(LedgerError, match="cannot be used"):
        open_index(str(tmp_path), FakeLog.of()).catch_up()


def test_tables_of_the_two_databases_have_the_same_columns_but_for_the_words() -> None:
    sqlite, postgresql = tables_of("sqlite", "x_"), tables_of("postgresql", "x_")
    assert {*sqlite.receipts.c.keys(), "words"} == set(postgresql.receipts.c.keys())
    assert sqlite.names() == postgresql.names() | {"x_words"}


def test_whatever_characters_a_receipt_holds_are_kept(url: str, open_index: OpenIndex) -> None:
    """PostgreSQL's COPY has meanings of its own for tabs, line ends and backslashes."""
    names = ["a\tb", "c\nd\r", "e\\N", "\\.", "f'g\"h", "ü\u2028ß", "\x7f"]
    log = FakeLog.of([Incident(at=at(0), component="x", by=name, note=f"{name} told") for name in names])
    index = open_index(url, log)
    assert index.catch_up() == len(names)
    for leaf, name in enumerate(names):
        assert leaves(index.find(Search(by=name), 10)) == [leaf]
    assert ask(index, "told") == list(reversed(range(len(names))))


def test_a_database_that_fails_while_it_is_filled_is_told_in_words(postgresql: str, open_index: OpenIndex) -> None:
    log = FakeLog.of()
    index = open_index(postgresql, log)
    index.catch_up()
    with index._engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE {index._tables.digests.name}")
    log.kept += FakeLog.of().kept[:1]
    with pytest.raises(LedgerError, match=r"the index cannot be used: relation .* does not exist"):
        index.catch_up()
