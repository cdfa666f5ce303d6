"""Events that are held back until their piece is whole: none is lost, none comes in halves, none out of order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joining_events import ROLE, chunk, content, event, read, reasons, say, think

from amaru.protocols import stream as stream_module
from amaru.protocols.holding import Holder
from amaru.protocols.openai import Hold
from amaru.protocols.stream import Sent, StreamParser

DONE = b"data: [DONE]\n\n"
USAGE = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 1})
STOP = chunk(reason="stop")
FILTERED = event(choices=[], prompt_filter_results=[1])


def call(arguments: str, index: int = 0, **delta: Any) -> bytes:
    """A piece of a call of a tool."""
    return chunk({**delta, "tool_calls": [{"index": 0, "function": {"arguments": arguments}}]}, index=index)


def ends(index: int, reason: str = "stop") -> bytes:
    return chunk(reason=reason, index=index)


def parser(hold: Hold, *, include_usage: bool = True) -> StreamParser:
    return StreamParser(include_usage=include_usage, hold=hold)


def fed(held: StreamParser, *events: bytes) -> bytes:
    return b"".join([held.feed(each) for each in events])


# ---- calls of tools -------------------------------------------------------------------------------------------------


def test_text_goes_out_at_once_and_a_call_when_it_is_whole() -> None:
    held = parser(Hold.CALLS)
    assert fed(held, ROLE, say("Let me see.")) == ROLE + say("Let me see.")
    assert held.holder is None
    assert fed(held, call('{"a"'), call(": 1}")) == b""
    assert held.holder is not None
    assert held.sent == Sent("Let me see.", events=1)
    assert held.feed(ends(0, "tool_calls")) == call('{"a"') + call(": 1}") + ends(0, "tool_calls")
    assert held.feed(USAGE) == USAGE
    assert held.let_go() == b""


def test_text_and_a_call_in_one_read_are_told_apart() -> None:
    held = parser(Hold.CALLS)
    assert held.feed(say("Hm. ") + think("So") + call("{") + say("More.")) == say("Hm. ") + think("So")
    assert held.sent == Sent("Hm. ", "So", 1, 1)
    assert held.texts == ["So", "Hm. ", "More.", "{"]


def test_text_in_the_very_event_of_a_call_is_held_with_it() -> None:
    held = parser(Hold.CALLS)
    assert held.feed(call("{}", content="Hm.")) == b""
    assert held.sent == Sent()
    assert not held.sent.anything


def test_the_older_form_of_a_call_is_held_too() -> None:
    old = chunk({"function_call": {"name": "f", "arguments": "{"}})
    held = parser(Hold.CALLS)
    assert held.feed(old) == b""
    assert held.feed(ends(0, "function_call")) == old + ends(0, "function_call")


def test_a_call_waits_for_every_choice_that_began() -> None:
    """Whoever asks for several choices has them held by the choice; a provider may send several unasked."""
    held = parser(Hold.CALLS)
    events = [say("zero", 0), call("{}", 1)]
    assert fed(held, *events) == events[0]
    assert held.feed(ends(1, "tool_calls")) == b""
    assert held.feed(ends(0)) == events[1] + ends(1, "tool_calls") + ends(0)


# ---- choices --------------------------------------------------------------------------------------------------------


def test_each_choice_goes_out_when_it_is_whole() -> None:
    held = parser(Hold.CHOICES)
    zero, one = [say("a", 0), say("b", 0), ends(0)], [say("x", 1), say("y", 1), ends(1)]
    assert fed(held, zero[0], one[0], zero[1], one[1]) == b""
    assert held.sent == Sent()
    assert held.feed(one[2]) == b"".join(one)
    assert held.sent == Sent(choices=frozenset((1,)))
    assert held.feed(zero[2]) == b"".join(zero)
    assert held.sent == Sent(choices=frozenset((0, 1)))
    assert held.feed(USAGE + DONE) == USAGE
    assert held.let_go() == b""


def test_what_follows_a_whole_choice_goes_out_with_it() -> None:
    held = parser(Hold.CHOICES)
    late = chunk({}, index=0, content_filter_results={})
    assert fed(held, say("a", 0), ends(0), late) == say("a", 0) + ends(0) + late


def test_events_of_several_choices_are_held_to_the_end() -> None:
    def both(text: str, reason: str | None = None) -> bytes:
        return event(choices=[{"index": i, "delta": {"content": text}, "finish_reason": reason} for i in (0, 1)])

    held = parser(Hold.CHOICES)
    events = [say("a", 0), both("b"), both("c", "stop"), say("d", 2), ends(2)]
    assert fed(held, *events) == b""
    assert held.sent == Sent(), "none of them is known to be whole"
    assert held.let_go() == b"".join(events)


def test_a_choice_that_was_whole_before_two_came_in_one_event_stays_out() -> None:
    held = parser(Hold.CHOICES)
    assert fed(held, say("a", 0), ends(0)) == say("a", 0) + ends(0)
    both = event(choices=[{"index": i, "delta": {"content": "b"}, "finish_reason": "stop"} for i in (1, 2)])
    assert held.feed(both) == b""
    assert held.sent == Sent(choices=frozenset((0,)))
    assert held.let_go() == both


def test_a_choice_that_never_finished_is_handed_on_with_the_end_that_was_judged_whole() -> None:
    held = parser(Hold.CHOICES)
    assert fed(held, say("a", 0), DONE) == b""
    assert held.let_go() == say("a", 0)


def test_the_last_event_may_lack_its_blank_line() -> None:
    held = parser(Hold.CHOICES)
    assert fed(held, say("a", 0), say("b", 1), ends(0).rstrip()) == b""
    assert held.feed_eof() == say("a", 0) + ends(0)
    assert held.feed_eof() == b"", "once"
    assert held.sent == Sent(choices=frozenset((0,)))


# ---- all of it ------------------------------------------------------------------------------------------------------


def test_everything_waits_for_the_end() -> None:
    held = parser(Hold.ALL)
    events = [ROLE, think("Hm."), say("a"), FILTERED, STOP, USAGE]
    assert fed(held, *events, DONE) == b""
    assert held.sent == Sent()
    assert held.let_go() == b"".join(events)
    assert held.let_go() == b"", "once"


def test_usage_that_nobody_asked_for_is_not_held_either() -> None:
    held = parser(Hold.ALL, include_usage=False)
    fed(held, say("a"), STOP, USAGE, DONE)
    assert held.let_go() == say("a") + STOP


@pytest.mark.parametrize("hold", [Hold.CHOICES, Hold.ALL])
def test_usage_goes_out_behind_what_is_held(hold: Hold) -> None:
    held = parser(hold)
    out = fed(held, say("a", 0), ends(0), say("b", 1), USAGE, ends(1), USAGE) + held.let_go()
    order = [told["choices"][0]["index"] if told["choices"] else "usage" for told in read(out)]
    assert order.index("usage") > max(place for place, what in enumerate(order) if what == 0)
    assert sorted(map(str, order)) == ["0", "0", "1", "1", "usage", "usage"]


def test_events_without_a_choice_go_out_at_once_where_nothing_is_held() -> None:
    assert parser(Hold.CHOICES).feed(FILTERED) == FILTERED
    assert parser(Hold.ALL).feed(FILTERED) == b""


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("hold", [Hold.CHOICES, Hold.ALL])
def test_an_event_in_several_lines_of_data_is_one_event_still(hold: Hold, end: bytes) -> None:
    lines = [b'{"choices": [', b' {"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}', b"]}"]
    held = parser(hold)
    out = held.feed(b"".join(b"data: " + line + end for line in lines) + end + DONE) + held.let_go()
    assert content(out) == "a"
    assert out.count(b"\n") == 2


# ---- bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flood", [say("x" * 100), FILTERED * 2], ids=["content", "events without choices"])
@pytest.mark.parametrize("hold", [Hold.CHOICES, Hold.ALL])
def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch, hold: Hold, flood: bytes) -> None:
    monkeypatch.setattr(stream_module, "MAX_HELD_BYTES", 1000)
    held = parser(hold)
    held.feed(say("a"))
    while not held.ended:
        assert held.feed(flood) == b""
        assert sum(map(len, held.texts)) < 2000
    assert held.malformed == "more than 1000 bytes have to be held back"
    assert held.sent == Sent()


def test_size_counts_what_came_and_not_what_waits() -> None:
    holder = Holder(Hold.CHOICES)
    holder.keep(b'{"a":1}', [0], {0: "stop"}, all_finished=True)
    assert holder.take() == b'data: {"a":1}\n\n'
    holder.keep_rest(b'{"b":2}')
    assert (holder.size_bytes, holder.take(), holder.take()) == (14, b'data: {"b":2}\n\n', b"")


# ---- properties -----------------------------------------------------------------------------------------------------

steps = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["text", "call", "end"])), max_size=30)


@given(steps, st.sampled_from(list(Hold)), st.data())
def test_nothing_is_lost_doubled_or_torn(script: list[tuple[int, str]], hold: Hold, data: st.DataObject) -> None:
    """Whatever choices come in whatever order and chunks: each in its order, whole or not at all, all at the end."""
    events: list[tuple[int, bytes]] = []
    finished: set[int] = set()
    for place, (index, what) in enumerate(script):
        if index in finished:
            continue
        if what == "end":
            finished.add(index)
            events.append((index, ends(index)))
        else:
            make = call if what == "call" and hold is not Hold.CALLS else say
            events.append((index, make(str(place), index)))
    stream = b"".join(each for _, each in events)
    held = parser(hold)
    out = b""
    at = 0
    while at < len(stream):
        step = data.draw(st.integers(1, len(stream)))
        out += held.feed(stream[at : at + step])
        at += step
        if hold is not Hold.CALLS:
            indices = {told["choices"][0]["index"] for told in read(out)}
            assert held.sent == Sent(choices=frozenset(indices))
            assert len(reasons(out)) == len(indices), "whole choices only"
    out += held.let_go()
    for index in range(4):
        mine = [told for told in read(out) if told["choices"][0]["index"] == index]
        assert mine == [told for each in events if each[0] == index for told in read(each[1])]
    if hold is Hold.CALLS:
        assert content(out) == content(stream)
