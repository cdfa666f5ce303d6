"""Joining where the later stream is odd: its size, its usage, what cannot be written again."""

from __future__ import annotations

from typing import Any

import pytest
from joining_events import HEAD, IDENTITY, STOP, anew, chunk, content, continued, event, joint, read, say, sent, think

from amaru.domain import Usage
from amaru.protocols import joining
from amaru.protocols.joining import DivergedError, closing_events
from amaru.protocols.stream import Sent, StreamParser

# ---- bounds ---------------------------------------------------------------------------------------------------------


def test_what_waits_until_one_can_tell_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "MAX_HELD_BYTES", 1000)
    joined = continued("Once upon a time")
    assert joined.take(think("Hm.")) == b""
    with pytest.raises(DivergedError):
        joined.take(think("Hm.") * 20)
    assert joined.sent == sent("Once upon a time")


def test_of_a_joined_answer_no_more_text_is_kept_than_of_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "MAX_TEXT_CHARS", 100)
    joined = anew("Hello")
    joined.take(say("Hello"))
    joined.take(say("x" * 95))
    assert not joined.sent.opaque
    for _ in range(10):
        assert content(joined.take(say("y" * 10))) == "y" * 10
    assert joined.sent == Sent("Hello" + "x" * 95, events=2, opaque=True)


# ---- usage, and what is odd -----------------------------------------------------------------------------------------


def test_usage_is_retold_wherever_it_stands() -> None:
    def retell(usage: dict[str, Any]) -> dict[str, Any]:
        return {**usage, "prompt_tokens": usage["prompt_tokens"] - 1}

    joined = continued("Hello", retell=retell)
    out = joined.take(chunk({"content": " you"}, usage={"prompt_tokens": 3}))
    out += joined.take(STOP + event(choices=[], usage={"prompt_tokens": 5}))
    assert [told["usage"]["prompt_tokens"] for told in read(out) if "usage" in told] == [2, 4]
    assert joined.told_usage


def test_usage_that_comes_with_every_token_makes_no_events_without_choices() -> None:
    """Callers who did not ask for usage read ``choices[0]`` of every event."""
    joined = anew("The capital")
    for text in ("The", " capital"):
        assert joined.take(chunk({"content": text}, usage={"prompt_tokens": 3})) == b""
    (told,) = read(joined.take(chunk({"content": " of"}, usage={"prompt_tokens": 3})))
    assert (told["choices"][0]["delta"], told["usage"]) == ({"content": " of"}, {"prompt_tokens": 3})
    assert joined.told_usage


def test_usage_that_came_with_a_choice_that_was_whole_before_is_known_not_to_have_been_told() -> None:
    joined = joint(Sent(choices=frozenset((1,))), continues=False)
    assert joined.take(chunk({"content": "zero"}, usage={"prompt_tokens": 1}) + chunk(reason="stop"))
    assert joined.told_usage
    assert joined.take(chunk(reason="stop", index=1, usage={"prompt_tokens": 3})) == b""
    assert not joined.told_usage


@pytest.mark.parametrize("usage", ["many", 5, [1], True, None, {}])
def test_odd_usage_passes(usage: Any) -> None:
    (told,) = read(continued("Hello").take(chunk({"content": " you"}, usage=usage)))
    assert told["usage"] == usage


def test_events_without_choices_pass_under_the_first_identity() -> None:
    (told,) = read(anew("Hello").take(event(choices=[], prompt_filter_results=[1])))
    assert told == {**IDENTITY, "choices": [], "prompt_filter_results": [1]}
    assert continued("Hello").take(b": comment\n\n") == b""


@pytest.mark.parametrize("number", [b"1e999", b"1" * 5000])
def test_what_cannot_be_written_again_is_not_joined(number: bytes) -> None:
    data = b'data: {"choices":[{"index":0,"delta":{"content":" you"},"logprobs":%b}]}\n\n' % number
    parser = StreamParser(include_usage=False)
    assert parser.feed(data) == data, "to a stream that did not break it does not matter"
    joined = continued("Hello")
    with pytest.raises(DivergedError):
        joined.take(data)
    assert joined.sent == sent("Hello")


def test_closing_events() -> None:
    assert read(closing_events(HEAD, True, "length", None)) == [
        {**IDENTITY, "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]}
    ]
    end, usage = read(closing_events(HEAD, False, "stop", Usage(3, 4)))
    assert end["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]
    assert usage == {
        **IDENTITY, "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }  # fmt: skip
    assert read(continued("Hello").usage_event(Usage(3, 4))) == [usage]
