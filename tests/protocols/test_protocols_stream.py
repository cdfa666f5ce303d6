"""Streamed answers: what is handed on, what is remembered, what is malformed."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.domain import ServiceTier, Usage, UsageDetails
from amaru.protocols import stream as stream_module
from amaru.protocols.stream import StreamParser


def event(*, end: bytes = b"\n\n", **fields: object) -> bytes:
    return b"data: " + json.dumps({"id": "c-1", "model": "m-1", **fields}, ensure_ascii=False).encode() + end


def chunk(delta: dict[str, object] | None = None, reason: str | None = None, index: int = 0, **fields: object) -> bytes:
    return event(choices=[{"index": index, "delta": delta or {}, "finish_reason": reason}], **fields)


ROLE = chunk({"role": "assistant", "content": ""})
HELLO = chunk({"content": "Hello"})
STOP = chunk(reason="stop")
USAGE = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 1})
DONE = b"data: [DONE]\n\n"


def parsed(*chunks: bytes, include_usage: bool = False) -> tuple[StreamParser, bytes]:
    parser = StreamParser(include_usage=include_usage)
    return parser, b"".join([parser.feed(data) for data in chunks])


def test_an_ordinary_stream() -> None:
    parser, out = parsed(ROLE, HELLO + STOP, USAGE + DONE + HELLO, HELLO)
    assert out == ROLE + HELLO + STOP
    assert parser.done
    assert parser.ended
    assert (parser.model, parser.id, parser.usage) == ("m-1", "c-1", Usage(3, 1))
    assert (parser.finish_reasons, parser.finished_choices) == ({0: "stop"}, 1)
    assert (parser.texts, parser.text_chars, parser.events) == (["Hello"], 5, 4)


def test_finer_usage_and_the_service_tier_are_those_of_a_whole_answer() -> None:
    told = {"prompt_tokens": 3, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 8}}
    parser, _ = parsed(HELLO + STOP + event(choices=[], usage=told, service_tier="flex") + DONE)
    assert parser.usage == Usage(3, 9, details=UsageDetails(reasoning_tokens=8, service_tier=ServiceTier.FLEX))
    odd, out = parsed(HELLO + event(choices=[], usage=told, service_tier=["flex"]))
    assert (out, odd.malformed, odd.usage) == (HELLO, None, Usage(3, 9, details=UsageDetails(reasoning_tokens=8)))


def test_usage_goes_on_only_to_who_asked() -> None:
    assert parsed(HELLO + STOP + USAGE + DONE, include_usage=True)[1] == HELLO + STOP + USAGE
    assert parsed(HELLO + event(usage={"prompt_tokens": 1}))[1] == HELLO
    odd = event(choices=[], usage={"prompt_tokens": "three"})
    parser, out = parsed(HELLO + odd)
    assert (out, parser.malformed, parser.usage) == (HELLO, None, None)
    both = chunk({"content": "x"}, usage={"prompt_tokens": 3, "completion_tokens": 2})
    parser, out = parsed(both)
    assert (out, parser.usage) == (both, Usage(3, 2))
    filtered = event(choices=[], prompt_filter_results=[1])
    assert parsed(filtered + HELLO)[1] == filtered + HELLO


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "", "images": [{"url": "x"}]},
        {"refusal": "No."},
        {"content": [{"type": "text", "text": "x"}]},
        {"audio": {"data": "x"}},
    ],
    ids=lambda delta: next(reversed(delta)),
)
def test_what_cannot_be_compared_is_known_to_have_been_sent(delta: dict[str, object]) -> None:
    parser, out = parsed(ROLE, HELLO)
    assert (parser.sent.content, parser.sent.opaque) == ("Hello", False)
    assert parser.feed(chunk(delta)) == chunk(delta)
    assert parser.sent.opaque
    assert parser.feed(HELLO + STOP) == HELLO + STOP
    assert parser.sent.opaque
    assert out == ROLE + HELLO


def test_texts_of_several_choices_that_nobody_asked_for_cannot_be_compared() -> None:
    parser, _ = parsed(HELLO, chunk({"content": "Hallo"}, index=1))
    assert parser.sent.opaque


def test_neither_a_role_nor_an_end_nor_details_of_reasoning_are_content() -> None:
    details: dict[str, object] = {"content": "", "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}
    parser, _ = parsed(ROLE, chunk(details))
    assert not parser.has_content
    parser.feed(HELLO + chunk(details) + STOP)
    assert not parser.sent.opaque


def test_a_byte_order_mark_is_dropped_from_the_start_and_nowhere_else() -> None:
    bom = b"\xef\xbb\xbf"
    for first in ((bom + HELLO,), (bom, HELLO), (bom[:2], bom[2:] + HELLO[:9], HELLO[9:])):
        parser, out = parsed(*first, bom + HELLO, HELLO)  # a field of the second event's name is unknown, so ignored
        assert (out, parser.texts) == (HELLO + HELLO, ["Hello", "Hello"])


def test_the_last_usage_is_known_from_usage_on_the_way() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    on_the_way = (
        event(choices=[], usage=usage) + chunk({"content": "x"}, usage=usage) + chunk(reason="stop", usage=usage)
    )
    parser, _ = parsed(on_the_way)
    assert parser.usage is not None
    assert not parser.usage_closed
    parser.feed(event(choices=[], usage={"prompt_tokens": "three"}) + USAGE)
    assert parser.usage_closed


def test_keepalives_are_not_handed_on_and_break_no_silence() -> None:
    parser, out = parsed(b": ping\n\n", b"event: ping\n\n", b"data:\n\n", b"data: \n\n", b"retry: 5\n\n", b"\n\n\n")
    assert (out, parser.events, parser.ended) == (b"", 0, False)
    parser, out = parsed(b'event: ping\ndata: {"type": "ping"}\n\n', b"event: ping\ndata: pong\n\n")
    assert (out, parser.events, parser.ended) == (b"", 0, False)


@pytest.mark.parametrize(
    "delta",
    [{"content": "x"}, {"reasoning_content": "x"}, {"reasoning": "x"}, {"refusal": "x"}, {"audio": {"data": "x"}},
     {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}, {"function_call": {"arguments": "{"}},
     {"content": [{"type": "text", "text": "x"}]}, {"role": "assistant", "a_new_kind": [1]}],
)  # fmt: skip
def test_content(delta: dict[str, object]) -> None:
    parser, out = parsed(chunk(delta))
    assert parser.has_content
    assert out + parser.let_go() == chunk(delta)


@pytest.mark.parametrize("delta", [{}, {"role": "assistant"}, {"role": "assistant", "content": ""},
                                   {"content": None, "tool_calls": None, "refusal": None}])  # fmt: skip
def test_no_content(delta: dict[str, object]) -> None:
    parser, out = parsed(chunk(delta))
    assert not parser.has_content
    assert out == chunk(delta)
    assert not parsed(event(choices=[{"index": 0, "delta": None}]))[0].has_content


def test_completions_stream_text() -> None:
    parser, _ = parsed(
        event(choices=[{"index": 0, "text": "ab"}]), event(choices=[{"text": "", "finish_reason": "stop"}])
    )
    assert (parser.texts, parser.finish_reasons) == (["ab"], {0: "stop"})


def test_choices_finish_each_on_its_own() -> None:
    parser, _ = parsed(chunk({"content": "a"}, index=1), chunk({"content": "b"}), chunk(reason="stop"))
    assert parser.finished_choices == 0
    parser.feed(chunk(reason="length", index=1))
    assert parser.finished_choices == 2
    parser.feed(chunk({}, index=1, reason=""))
    assert parser.finished_choices == 2


def test_reasoning_under_two_names_is_counted_once() -> None:
    parser, _ = parsed(chunk({"content": "a", "reasoning": "think", "reasoning_content": "think"}))
    assert "".join(parser.texts) == "thinka"


def test_text_is_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_TEXT_CHARS", 7)
    parser, _ = parsed(HELLO, HELLO, HELLO)
    assert (parser.texts, parser.text_chars) == (["Hello"], 15)


@pytest.mark.parametrize(
    "bad",
    [
        b"data: {\n\n",
        b"data: nonsense\n\n",
        b"data: 5\n\n",
        b"data: []\n\n",
        b'data: "x"\n\n',
        b"data: {}\n\n",
        b'data: {"id":"x"}\n\n',
        b'data: {"choices":null}\n\n',
        b'data: {"choices":{}}\n\n',
        b'data: {"choices":[5]}\n\n',
        b'data: {"choices":[{"delta":{"content":5}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"\xc3"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"a"}}],"x":"\xff"}\n\n',
        b'data: {"choices":[{"delta":{"content":"\\ud800"}}]}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
        b'data: {"error":5}\n\n',
        b'data: {"choices":[{"delta":{"content":5}}], broken\n\n',
        b'data: {"choices":[]} {"choices":[]}\n\n',
        b"data: <html>\n\n",
        b'event: message\ndata: {"type":"response.output_text.delta"}\n\n',
        b'{"choices":[]\n\n',
        b'{"choices":[{"delta":{"content":"x"}}]}\n\n',
    ],
)
def test_malformed_events_end_the_stream(bad: bytes) -> None:
    parser, out = parsed(HELLO + bad + HELLO, HELLO)
    assert parser.malformed is not None
    assert parser.ended
    assert parser.error is None
    assert out == HELLO
    assert "Hello" not in parser.malformed


def test_an_endless_event_is_malformed() -> None:
    parser = StreamParser(include_usage=False, max_event_bytes=1000)
    parser.feed(b"data: " + b"x" * 2000)
    assert parser.malformed == "an event is larger than 1000 bytes"


@pytest.mark.parametrize(
    "bad",
    [
        b'data: {"error":{"message":"m","code":"c"}}\n\n',
        b'data: {"error":"m","choices":[]}\n\n',
        b'data: {"error":{"message":"m"},"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}\n\n',
        b'data: {"error":{"message":"m"},"model":5}\n\n',
        b'data: {"object":"error","message":"m"}\n\n',
        b'data: {"message":"m","code":500}\n\n',
        b'data: {"detail":"m"}\n\n',
        b'event: error\ndata: {"message":"m"}\n\n',
        b'{"error":{"message":"m"}}\n\n',
        b'{"error":\n{"message":"m"}}\n\n',
    ],
)
def test_errors_end_the_stream(bad: bytes) -> None:
    parser, out = parsed(HELLO + bad + HELLO)
    assert parser.error is not None
    assert parser.error.message == "m"
    assert (parser.ended, parser.malformed, out) == (True, None, HELLO)


def test_errors_without_words() -> None:
    for bad in (b"event: error\ndata: oh no\n\n", chunk(reason="error")):
        parser, out = parsed(HELLO + bad)
        assert parser.error is not None
        assert out == HELLO


@pytest.mark.parametrize(
    ("rest", "out", "done"),
    [
        (b"data: [DONE]", b"", True),
        (b"data: [DONE]\r\n", b"", True),
        (STOP.rstrip(), STOP, False),
        (STOP[:-1], STOP, False),
        (STOP[:-10], b"", False),
        (b"data: ", b"", False),
        (b"\n", b"", False),
        (b"", b"", False),
    ],
)
def test_a_last_event_may_lack_its_blank_line(rest: bytes, out: bytes, done: bool) -> None:
    parser, _ = parsed(HELLO + rest)
    assert parser.feed_eof() == out
    assert (parser.done, parser.malformed) == (done, None)
    assert bool(parser.finish_reasons) is bool(out)


def test_an_error_without_its_frame_at_the_end() -> None:
    parser, _ = parsed(HELLO + b'{"error": {"message": "m"}}')
    assert parser.feed_eof() == b""
    assert parser.error is not None


blocks = st.sampled_from(
    [ROLE, HELLO, chunk({"content": "é€😀"}), STOP, USAGE, DONE, b": ping\n\n", b"data: {\n\n", b"data: \n\n",
     b'data: {"error":{"message":"m"}}\n\n', HELLO.replace(b"\n", b"\r\n"), STOP.replace(b"\n", b"\r"),
     HELLO.replace(b', "choices', b',\ndata: "choices'), b"event: x\n" + HELLO, b"\r\n", b"data: \xff\n\n"]
)  # fmt: skip


@given(st.lists(blocks, max_size=12).map(b"".join), st.data(), st.booleans())
def test_any_chunks_give_the_same_stream(whole: bytes, data: st.DataObject, include_usage: bool) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    chunks = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    one, out_one = parsed(whole, include_usage=include_usage)
    many, out_many = parsed(*chunks, include_usage=include_usage)
    # The LF of a CRLF that was cut in two goes with what comes after it, which may be an event or a blank line that is
    # not handed on: how many blank lines end an event is of no meaning.
    assert _with_one_blank_line(out_many) == _with_one_blank_line(out_one)
    for name in ("done", "has_content", "events", "finish_reasons", "texts", "text_chars", "model", "usage", "error"):
        assert getattr(one, name) == getattr(many, name), name
    assert (one.malformed is None) == (many.malformed is None)


def _with_one_blank_line(stream: bytes) -> bytes:
    return re.sub(b"\n{2,}", b"\n\n", stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))


@given(st.lists(blocks, max_size=12).map(b"".join))
def test_what_is_handed_on_is_a_stream_without_end_or_error(whole: bytes) -> None:
    _, out = parsed(whole)
    again, out_again = parsed(out)
    assert not again.ended
    assert out_again == out
