"""Joining a later answer to what was sent: every character once, and never two answers in one."""

from __future__ import annotations

from typing import Any

import pytest
from joining_events import (
    HEAD,
    IDENTITY,
    ROLE,
    STOP,
    anew,
    chunk,
    content,
    continued,
    deltas,
    event,
    joint,
    read,
    reasons,
    say,
    sent,
    think,
    whole,
)

from amaru.protocols.joining import (
    SETTLED_CHARS,
    TELLING_CHARS,
    DivergedError,
    NotContinuedError,
    continued_part,
)
from amaru.protocols.stream import Sent

STORY = "Once upon a time there was a fox."
"""Long enough to tell whether it comes again."""


# ---- continuations --------------------------------------------------------------------------------------------------


def test_a_continuation_goes_on_behind_what_was_sent() -> None:
    joined = continued("The capital of France")
    assert joined.take(ROLE) == b"", "a second beginning is none of the caller's business"
    assert content(joined.take(say(" is"))) == " is"
    assert content(joined.take(say(" Paris.") + STOP)) == " Paris."
    assert joined.end() == b""
    assert joined.sent == Sent(choices=frozenset((0,)))


def test_events_carry_the_identity_of_the_first_stream_and_keep_all_else() -> None:
    out = continued("Hello").take(chunk({"content": " you"}, system_fingerprint="fp", padding="xyz"))
    (told,) = read(out)
    assert told == {
        **IDENTITY,
        "system_fingerprint": "fp",
        "padding": "xyz",
        "choices": [{"index": 0, "delta": {"content": " you"}, "finish_reason": None}],
    }


def test_the_identity_is_the_first_that_names_something() -> None:
    head = event(id="", model="", choices=[], prompt_filter_results=[]) + HEAD + say("x")
    (told,) = read(continued("Hello", head=head).take(say(" you")))
    assert {name: told[name] for name in IDENTITY} == IDENTITY


@pytest.mark.parametrize("head", [b"", b": comment\n\n", event(id="", model="", choices=[]), b"data: 1e999\n\n"])
def test_without_an_identity_the_second_streams_own_stays(head: bytes) -> None:
    (told,) = read(continued("Hello", head=head).take(say(" you")))
    assert (told["id"], told["model"]) == ("c-2", "m-2")


@pytest.mark.parametrize(
    ("before", "events", "text"),
    [
        ("Hello \n", [" \n", "you"], " \n"),
        ("Hello \n", [" ", "\nyou"], " \n"),
        ("Hello \n", [" \nyou"], " \n"),
        ("Hello\u3000\u2028", ["\u3000\u2028you"], "\u3000\u2028"),
    ],
)
def test_white_space_at_the_end_is_not_repeated(before: str, events: list[str], text: str) -> None:
    assert continued_part(sent(before)) == before.removesuffix(text)
    assert content(whole(continued(before), *map(say, events), STOP)) == "you"


def test_a_continuation_may_end_or_call_without_the_white_space_that_it_was_not_shown() -> None:
    assert reasons(whole(continued("Hello \n"), STOP)) == ["stop"]
    call = {"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": "{}"}}]}
    out = whole(continued("Let me see.\n\n"), chunk(call), chunk(reason="tool_calls"))
    assert deltas(out)[0] == call
    assert reasons(out) == ["tool_calls"]


def test_other_white_space_is_another_answer() -> None:
    with pytest.raises(DivergedError):
        continued("Hello \n").take(say("\nyou"))
    with pytest.raises(DivergedError):
        continued("Hello \n").take(say("you"))


@pytest.mark.parametrize("cut", [1, 5, 20, len(STORY), 300])
def test_a_continuation_that_begins_anew_is_noticed(cut: int) -> None:
    told = STORY if cut <= len(STORY) else STORY * 9
    answer = told + " He was quick."
    joined = continued(told)
    pieces = [answer[at : at + cut] for at in range(0, len(answer), cut)]
    with pytest.raises(NotContinuedError) as raised:
        whole(joined, *map(say, pieces), STOP)
    assert raised.value.certain
    assert joined.sent == sent(told), "nothing of it went out"


def test_nothing_goes_out_while_it_may_have_been_begun_anew() -> None:
    joined = continued(STORY)
    assert joined.take(ROLE) + joined.take(say("Once upon")) == b""
    assert content(joined.take(say(" the hill"))) == "Once upon the hill"
    assert joined.sent.content == STORY + "Once upon the hill"


def test_one_that_begins_alike_for_long_and_then_differs_was_likely_begun_anew() -> None:
    with pytest.raises(NotContinuedError) as raised:
        continued(STORY).take(say("Once upon a time there was a hen"))
    assert not raised.value.certain


@pytest.mark.parametrize("before", ["Hi", "ha", "1", "---", "— ", "-" * 80, "嗨", "🎉"])
def test_a_short_answer_that_comes_again_is_not_joined_and_not_held_against_its_provider(before: str) -> None:
    with pytest.raises(NotContinuedError) as raised:
        continued(before).take(say(before.rstrip() + " and so on"))
    assert not raised.value.certain


def test_an_answer_begun_anew_that_ran_out_of_tokens_before_one_could_tell_is_not_joined() -> None:
    with pytest.raises(NotContinuedError):
        whole(continued("Hello there"), say("Hel"), chunk(reason="length"))
    with pytest.raises(NotContinuedError):
        whole(continued("Hello there"), chunk({"content": "Hel"}, reason="length"))
    # Whole answers that stop by themselves do not end in the middle of a shorter one.
    assert content(whole(continued("4 follows from 3+1="), say("4"), STOP)) == "4"


def test_an_end_without_a_finish_reason_loses_nothing() -> None:
    with pytest.raises(NotContinuedError):
        whole(continued("Hello there"), say("Hel"))
    joined = continued("Hello there")
    assert joined.take(ROLE) == b""
    assert joined.take(event(choices=[], usage={"prompt_tokens": 1})) == b""
    (told,) = read(joined.end())
    assert told["usage"] == {"prompt_tokens": 1}


def test_the_reasoning_of_a_continuation_is_left_out() -> None:
    before = sent("Hello", "Let me greet.")
    out = whole(joint(before, continues=True), think("Hm."), chunk({"reasoning": "Hm.", "content": " you"}), STOP)
    assert content(out) == " you"
    assert content(out, "reasoning_content") + content(out, "reasoning") == ""


def test_completions_are_continued_too() -> None:
    joined = continued("def f(x):")
    out = whole(
        joined,
        event(choices=[{"index": 0, "text": "\n    return"}]),
        event(choices=[{"index": 0, "text": " x", "finish_reason": "stop"}]),
    )
    assert "".join(choice["text"] for told in read(out) for choice in told["choices"]) == "\n    return x"
    with pytest.raises(NotContinuedError):
        continued("def f(x): return").take(event(choices=[{"index": 0, "text": "def f(x): return x"}]))


# ---- answers begun anew ---------------------------------------------------------------------------------------------


def test_an_answer_begun_anew_is_joined_where_it_repeats_what_was_sent() -> None:
    joined = anew("The capital of France")
    assert joined.take(ROLE) == joined.take(say("The capital")) == joined.take(say(" of ")) == b""
    assert content(joined.take(say("France is"))) == " is"
    assert content(joined.take(say(" Paris.") + STOP)) == " Paris."
    assert joined.end() == b""


@pytest.mark.parametrize("events", [["the capital"], ["The", " city"], ["The capital is"], ["Thé capital"], [" The"]])
def test_another_answer_is_not_joined(events: list[str]) -> None:
    joined = anew("The capital of France")
    with pytest.raises(DivergedError) as raised:
        whole(joined, *map(say, events))
    assert not isinstance(raised.value, NotContinuedError)
    assert joined.sent == sent("The capital of France")


@pytest.mark.parametrize("text", ["", "The", "The capital of "])
@pytest.mark.parametrize("end", [STOP, chunk(reason="length"), b""], ids=["stop", "length", "no reason"])
def test_a_shorter_answer_is_another_one(text: str, end: bytes) -> None:
    with pytest.raises(DivergedError):
        whole(anew("The capital of France"), *([say(text)] if text else []), *([end] if end else []))


def test_white_space_is_part_of_an_answer_begun_anew() -> None:
    with pytest.raises(DivergedError):
        whole(anew("Hello \n"), say("Hello"), STOP)


def test_an_answer_that_was_all_there_only_ends() -> None:
    out = whole(anew("Hello"), say("Hello"), STOP)
    assert content(out) == ""
    assert reasons(out) == ["stop"]


def test_reasoning_that_was_sent_is_repeated_before_anything_else() -> None:
    joined = anew(reasoning="Let me think")
    assert joined.take(think("Let me")) == b""
    out = joined.take(think(" think. ")) + joined.take(say("Yes.")) + joined.take(STOP)
    assert content(out, "reasoning_content") == ". "
    assert content(out) == "Yes."
    for other in (think("Hm."), say("Yes."), STOP, chunk({"refusal": "No."})):
        with pytest.raises(DivergedError):
            whole(anew(reasoning="Let me think"), other)
    with pytest.raises(DivergedError):
        whole(anew(reasoning="Let me think"), think("Let me"), say("Yes."))


def test_reasoning_is_over_once_the_content_has_begun() -> None:
    joined = joint(sent("Yes", "Let me think."), continues=False)
    out = whole(joined, think("Another thought."), say("Yes."), STOP)
    assert content(out) == "."
    assert content(out, "reasoning_content") == ""


def test_reasoning_under_two_names_is_one_reasoning() -> None:
    joined = anew(reasoning="Let me")
    both = [{"reasoning": text, "reasoning_content": text} for text in ("Let", " me think", ".")]
    out = b"".join([joined.take(chunk(delta)) for delta in both])
    assert content(out, "reasoning") == content(out, "reasoning_content") == " think."
    assert joined.sent == Sent(reasoning="Let me think.", reasoning_events=3)


@pytest.mark.parametrize("first", [("reasoning",), ("reasoning_content",), ("reasoning_content", "reasoning")])
@pytest.mark.parametrize("later", [("reasoning",), ("reasoning_content",), ("reasoning_content", "reasoning")])
def test_reasoning_keeps_the_name_that_it_began_under(first: tuple[str, ...], later: tuple[str, ...]) -> None:
    head = HEAD + chunk(dict.fromkeys(first, "Let me"))
    (delta,) = deltas(anew(reasoning="Let me", head=head).take(chunk(dict.fromkeys(later, "Let me think"))))
    assert delta == dict.fromkeys(first, " think")


@pytest.mark.parametrize(
    "delta",
    [
        {"tool_calls": [{"index": 0, "function": {"name": "f"}}]},
        {"refusal": "No."},
        {"audio": {"data": "x"}},
        {"content": [{"type": "text", "text": "Hello"}]},
        {"reasoning": [{"type": "text", "text": "Hm"}]},
        {"a_new_kind": 1},
    ],
    ids=lambda delta: next(iter(delta)),
)
def test_what_is_not_text_follows_only_what_was_repeated_in_full(delta: dict[str, Any]) -> None:
    before = sent("Hello") if "reasoning" not in delta else sent(reasoning="Hello")
    with pytest.raises(DivergedError):
        joint(before, continues=False).take(chunk(delta))
    joined = joint(before, continues=False)
    assert joined.take(say("Hello") if before.content else think("Hello")) == b""
    assert not joined.sent.opaque
    assert deltas(joined.take(chunk(delta))) == [delta]
    assert joined.sent.opaque, "what comes next could not be compared"


def test_typed_reasoning_is_left_out_behind_content() -> None:
    parts = [{"type": "text", "text": "Hm"}]
    joined = continued("Hello")
    assert joined.take(chunk({"reasoning": parts})) == b""
    assert joined.take(chunk({"content": "", "reasoning": "Hm", "reasoning_details": parts})) == b""
    assert not joined.sent.opaque


def test_nothing_sent_lets_everything_pass() -> None:
    out = whole(anew(), ROLE, think("Hm."), say("Yes."), STOP)
    assert content(out, "reasoning_content") == "Hm."
    assert content(out) == "Yes."
    assert reasons(out) == ["stop"]


# ---- several breaks, several choices --------------------------------------------------------------------------------


def test_several_breaks_in_a_row_add_up() -> None:
    first = continued("One,")
    first.take(say(" two"))
    first.take(say(", "))
    assert first.sent == Sent("One, two, ", events=3)
    second = joint(first.sent, continues=True)
    assert content(second.take(say(" three"))) == "three"
    third = joint(second.sent, continues=False)
    assert third.take(say("One, two, three")) == b""
    assert third.sent == second.sent == Sent("One, two, three", events=4)
    assert content(whole(third, say(", four."), STOP)) == ", four."


def test_choices_that_were_whole_stay_and_others_pass() -> None:
    joined = joint(Sent(choices=frozenset((1,))), continues=False)
    events = [
        say("zero", 0), say("another one", 1), chunk(reason="stop", index=1), chunk(reason="stop", index=0),
        event(choices=[{"index": i, "delta": {"content": str(i)}, "finish_reason": "stop"} for i in (1, 2)]),
    ]  # fmt: skip
    out = whole(joined, *events)
    assert [choice["index"] for told in read(out) for choice in told["choices"]] == [0, 0, 2]
    assert content(out) == "zero2"
    assert joined.sent == Sent(choices=frozenset((0, 1, 2)))


def test_a_whole_choice_is_nothing_that_the_next_answer_must_repeat() -> None:
    first = joint(Sent(choices=frozenset((0,))), continues=False)
    call = {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}
    first.take(say("one", 1) + chunk(reason="stop", index=1))
    first.take(chunk(call, index=2) + chunk(reason="tool_calls", index=2))
    assert first.sent == Sent(choices=frozenset((0, 1, 2)))
    second = joint(first.sent, continues=False)
    events = [say(text, index) for index, text in enumerate(("a", "b", "c", "three"))]
    assert content(whole(second, *events, chunk(reason="stop", index=3))) == "three"


def test_a_choice_of_which_nothing_was_sent_keeps_its_role() -> None:
    joined = joint(Sent(choices=frozenset((1,))), continues=False)
    begun = [chunk({"role": "assistant", "content": ""}, index=index) for index in (0, 1)]
    out = whole(joined, *begun, say("zero", 0), chunk(reason="stop"))
    assert [delta.get("role") for delta in deltas(out)] == ["assistant", None, None]
    assert not joined.sent.opaque


def test_the_bounds_of_telling() -> None:
    assert TELLING_CHARS < len(STORY) < SETTLED_CHARS
