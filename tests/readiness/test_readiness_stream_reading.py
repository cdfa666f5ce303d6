"""What a stream tells its reader."""

import json

import pytest

from amaru.readiness.stream_reading import StreamReading


def event(**fields) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def content(text: str) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}}])


END = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
USAGE = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2})
RECEIPT = b': amaru {"decision":"d","provider":"p","attempts":3,"cost_usd":0.5}\n\n'
WHOLE = content("") + content("a") + content("b") + END + USAGE + RECEIPT + b"data: [DONE]\n\n"


@pytest.mark.parametrize("step", [1, 7, len(WHOLE)])
def test_a_whole_stream_however_it_is_cut(step: int) -> None:
    reading = StreamReading()
    firsts = [reading.feed(WHOLE[place : place + step]) for place in range(0, len(WHOLE), step)]
    assert sum(firsts) == 1  # the first token is told once, and an empty delta is none
    assert reading.whole
    assert reading.done
    assert reading.content_events == 2
    assert reading.usage == (3, 2)
    assert reading.receipt is not None
    assert (reading.receipt.provider, reading.receipt.attempts, reading.receipt.cost_usd) == ("p", 3, 0.5)


def test_without_done_a_finished_answer_is_whole_and_without_a_reason_it_is_not() -> None:
    reading = StreamReading()
    reading.feed(content("a"))
    assert not reading.whole
    reading.feed(END)
    assert reading.whole


@pytest.mark.parametrize(
    ("block", "error"),
    [
        (event(error={"message": "m", "code": "c"}), "error_event"),
        (b'data: {"choices": [\n\n', "malformed"),
        (b'data: {"choices":[{"delta":{"content":"\xc3"}}]}\n\n', "malformed"),
        (b"data: <html>\n\n", "malformed"),
    ],
)
def test_what_goes_wrong_is_never_whole(block: bytes, error: str) -> None:
    reading = StreamReading()
    for data in (content("a"), block, content("b"), END, b"data: [DONE]\n\n"):
        reading.feed(data)
    assert reading.error == error
    assert not reading.whole
    assert reading.content_events == 1  # nothing behind a break counts


def test_tool_calls_count_and_comments_do_not() -> None:
    reading = StreamReading()
    reading.feed(b": keep-alive\n\n: amaru not json\n\ndata:\n\n")
    assert reading.content_events == 0
    assert reading.receipt is None
    reading.feed(event(choices=[{"delta": {"tool_calls": [{"index": 0}]}}]))
    assert reading.content_events == 1
