"""Markdown out of figures, and out of strings that somebody else chose."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from amaru.readiness.markdown import code_block, escaped, number, plain, seconds, share, table, usd

NASTY = st.text(st.sampled_from("ab1_*`[]()<>!|~&@$:/\\#-+=.\n\r\t ^{}\"'") | st.characters(), max_size=40)


def shown(markdown: str) -> str:
    """The text that a reader sees, and nothing but text: anything else is a failure."""
    seen = []
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(markdown):
        assert token.type in ("paragraph_open", "paragraph_close", "inline"), token
        for part in token.children or ():
            assert part.type in ("text", "text_special"), part
            seen.append(part.content)
    return "".join(seen)


@given(NASTY)
def test_what_is_escaped_is_shown_as_it_was_and_does_nothing(text: str) -> None:
    assume(plain(text))
    assert shown(f"x {escaped(text)} x") == f"x {plain(text)} x"


@given(NASTY, NASTY)
def test_no_cell_leaves_its_table(first: str, second: str) -> None:
    rows = table(("a", "b"), [(escaped(first), escaped(second))]).splitlines()
    assert len(rows) == 3
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse("\n".join(rows))
    assert [token.type for token in tokens].count("td_open") == 2


@given(NASTY)
def test_a_block_of_code_holds_all_of_it_and_ends(text: str) -> None:
    (fence,) = MarkdownIt().parse(code_block(text))
    assert fence.type == "fence"
    assert fence.content.strip("\n") == plain(text, 4000)


@pytest.mark.parametrize("text", ["http://evil.example/x", "www.evil.example", "a@evil.example", "$x$", "<b>"])
def test_github_makes_no_link_formula_or_tag_of_it(text: str) -> None:
    assert "\\" in escaped(text)


def test_plain_text_is_one_line_that_any_file_can_hold() -> None:
    assert plain("a\nb\x00\u202ec\ud800") == "a b c?"
    assert plain("word " * 100, 20) == "word word word word…"
    assert escaped("gpt-4.1_mini http_503") == "gpt-4.1_mini http_503"  # what needs no escape gets none


@pytest.mark.parametrize(
    ("value_s", "words"),
    [
        (None, "-"),
        (0, "0 ms"),
        (12.3e-6, "12.3 µs"),
        (0.00123, "1.23 ms"),
        (0.123, "123 ms"),
        (0.9999, "1.00 s"),
        (75, "75.0 s"),
    ],
)
def test_times_have_three_digits(value_s: float | None, words: str) -> None:
    assert seconds(value_s) == words


def test_a_share_is_whole_only_where_nothing_is_missing() -> None:
    assert [share(value) for value in (1, 0.99999, 0.5, 0.00001, 0, None)] == [
        "100.0 %",
        ">99.9 %",
        "50.0 %",
        "<0.1 %",
        "0.0 %",
        "-",
    ]


def test_figures_and_money() -> None:
    assert [number(value) for value in (0, 0.123, 12.34, 1234.5)] == ["0", "0.12", "12.3", "1,234"]
    assert [usd(value) for value in (0, 0.00123, 1234.5)] == ["$0.00", "$0.00123", "$1,234.50"]
