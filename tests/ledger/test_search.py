"""What a query means, whatever is typed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_samples import DIGEST, T0

from amaru.errors import LedgerError
from amaru.ledger.search import (
    Search,
    SearchError,
    Term,
    match_fts5,
    match_tsquery,
    parse_query,
    time_of,
    tsvector,
)
from amaru.ledger.words import MAX_WORD, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("AI-Mesh routing decisions", ["ai", "mesh", "routing", "decision"]),
        ("Zürich ZÜRICH zurich", ["zurich"] * 3),
        ("Straße", ["strasse"]),
        ("ﬁeld ＡＢＣ", ["field", "abc"]),
        ("discoveries boxes classes status analysis us", ["discovery", "box", "class", "status", "analysis", "us"]),
        ("snake_case sha256:ABCD", ["snake", "case", "sha256", "abcd"]),
        ("決定 прокси", ["決定", "прокси"]),
        ("\x00\x1f ¿? ·", []),
        ("x" * 100, ["x" * MAX_WORD]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.text(max_size=100))
def test_words_are_letters_and_digits_and_stay_as_they_are(text: str) -> None:
    words = words_of(text, stems=False)
    assert all(re.fullmatch(r"[^\W_]+", word) for word in words)
    assert words_of(" ".join(words), stems=False) == words


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("routing decisions", Search(terms=(Term(("routing",)), Term(("decision",))))),
        ("ai-mesh", Search(terms=(Term(("ai", "mesh")),))),
        ('"first token"', Search(terms=(Term(("first", "token")),))),
        ('"never closed', Search(terms=(Term(("never", "closed")),))),
        ("rout*", Search(terms=(Term(("rout",), prefix=True),))),
        ("class*", Search(terms=(Term(("class",), prefix=True),))),
        ("-drain", Search(terms=(Term(("drain",), absent=True),))),
        ("component:psi-field type:memory", Search(component="psi-field", types=("memory",))),
        ("TYPE:deployments,trainings", Search(types=("deploy", "training"))),
        ('version:"1.4 beta" by:maria ref:d-1', Search(version="1.4 beta", by="maria", ref="d-1")),
        (f"digest:{DIGEST}", Search(digest=bytes.fromhex("ab" * 32))),
        ("since:2h", Search(since=T0 - 7200)),
        ("since:2026-09-21 until:2026-09-21", Search(since=1_789_948_800.0, until=1_790_035_200.0)),
        ("https://x.example", Search(terms=(Term(("http", "x", "example")),))),
        ("-component:gateway", Search(terms=(Term(("component", "gateway"), absent=True),))),
    ],
)
def test_what_a_query_asks_for(query: str, wanted: Search) -> None:
    assert parse_query(query, T0) == wanted


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "no word"),
        ('"" * - :', "no word"),
        ("component:", "component: wants a value"),
        ("component:a component:b", "twice"),
        ("since:soonish", "30d, 12h or 90m"),
        ("since:2026-13-45", "no time"),
        ("digest:abc", "64 hexadecimal"),
        ("x" * 1001, "1,001 characters"),
        ("w " * 40, "40 words"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_to_write(query: str, said: str) -> None:
    with pytest.raises(SearchError, match=re.escape(said)):
        parse_query(query, T0)


@given(st.text(max_size=200) | st.from_regex(r'([a-z]{1,6}:)?["*^(){}+\-&|!<>:\'\\]{0,6}[a-z0-9]{0,6}', fullmatch=True))
def test_nothing_of_a_query_reaches_a_database_as_syntax(query: str) -> None:
    try:
        terms = parse_query(query, T0).terms
    except LedgerError:
        return
    if any(not term.absent for term in terms):
        assert re.fullmatch(r'\(?("[^\W_]+( [^\W_]+)*"( \*)?( AND | OR |\) NOT \()?)*\)?', match_fts5(terms))
    assert re.fullmatch(r"('[^\W_]+'(:\*)?( <-> | & )?)*", match_tsquery(terms))


def test_times_of_every_form() -> None:
    assert time_of("90m", T0) == T0 - 5400
    assert time_of("2w", T0) == T0 - 1_209_600
    assert time_of("2026-09-21T14:13:20Z", T0) == T0
    assert time_of("2026-09-21 14:13:20", T0) == T0
    assert time_of("2026-09-21T16:13:20+02:00", T0) == T0
    assert time_of("2026-09-21", T0, end=True) - time_of("2026-09-21", T0) == 86_400


def test_places_of_words() -> None:
    assert tsvector(["ai", "mesh", "ai"]) == "'ai':1,3 'mesh':2"
    assert match_tsquery([Term(("ai", "mesh"), prefix=True), Term(("x",))]) == "'ai' <-> 'mesh':* & 'x'"
    assert match_fts5([Term(("a",)), Term(("b",), absent=True)]) == '("a") NOT ("b")'
    assert match_fts5([Term(("ai", "mesh"), prefix=True), Term(("x",))]) == '"ai mesh" * AND "x"'
