"""Joining, as properties: whatever the texts and their pieces, the whole answer comes of it, or an exception."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from joining_events import STOP, anew, chunk, content, continued, joint, reasons, say, sent, whole

from amaru.protocols.joining import DivergedError, NotContinuedError, continued_part

texts = st.one_of(
    st.text(min_size=1, max_size=60),
    st.text(alphabet="ab \n", min_size=1, max_size=60),
    st.text(alphabet="ß́🎉👩‍🚀नमस्ते漢字", min_size=1, max_size=40),
).filter(lambda text: text.isprintable() or text.encode("utf-8", "replace").decode() == text)


def pieces(data: st.DataObject, text: str) -> list[str]:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    bounds = [0, *cuts, len(text)]
    return [text[a:b] for a, b in itertools.pairwise(bounds) if a < b]


@given(texts, texts, st.data(), st.booleans())
@example("ha", "ha", None, True)
@example("ab \n", "ab", None, True)
def test_what_is_joined_is_the_whole_answer_or_nothing(
    before: str, after: str, data: st.DataObject | None, continues: bool
) -> None:
    """Of an honest continuation, and of an answer begun anew: all of it, in any pieces, or an exception."""
    answer = before + after
    told = answer[len(continued_part(sent(before))) :] if continues else answer
    joined = joint(sent(before), continues=continues)
    received = b""
    try:
        for piece in pieces(data, told) if data is not None else [told]:
            received += joined.take(say(piece))
            assert before + content(received) == joined.sent.content
            assert answer.startswith(joined.sent.content)
        received += joined.take(STOP) + joined.end()
    except NotContinuedError:
        assert continues
        assert told.startswith(before[:1])
        assert content(received) == ""
    else:
        assert before + content(received) == answer
        assert reasons(received) == ["stop"]


@given(texts, texts, st.data())
def test_an_answer_begun_anew_is_never_mixed_with_another(before: str, other: str, data: st.DataObject) -> None:
    joined = anew(before)
    received = b""
    try:
        for piece in pieces(data, other):
            received += joined.take(say(piece))
        received += joined.take(STOP) + joined.end()
    except DivergedError:
        assert not other.startswith(before)
        assert received == b""
    else:
        assert before + content(received) == other


@given(texts, texts, st.data(), st.sampled_from([STOP, chunk(reason="length"), b""]))
def test_an_answer_that_ignores_what_was_sent_is_never_put_behind_it(
    before: str, after: str, data: st.DataObject, end: bytes
) -> None:
    """As long as it is the same answer; one cut short by the tokens it was allowed, too."""
    if not continued_part(sent(before)):
        return
    answer = before + after
    if end == chunk(reason="length"):
        answer = answer[: data.draw(st.integers(1, len(answer)))]
    joined = continued(before)
    with pytest.raises(NotContinuedError):
        whole(joined, *map(say, pieces(data, answer)), *([end] if end else []))
    assert joined.sent == sent(before)
