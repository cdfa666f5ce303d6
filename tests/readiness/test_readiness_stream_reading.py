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
    counted = [reading.feed(WHOLE[place : place + step]) for place in range(0, len(WHOLE), step)]
    assert sum(counted) == 2  # each once, and an empty delta is none
    assert reading.whole
    assert reading.done
    assert reading.content_events == 2
    assert reading.usage is not None
    assert (reading.usage.prompt_tokens, reading.usage.completion_tokens) == (3, 2)
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


def says(**delta) -> int:
    return StreamReading().feed(event(choices=[{"index": 0, "delta": delta}]))


def test_whatever_is_part_of_an_answer_is_content() -> None:
    assert says(content="a") == says(content=[{"type": "text", "text": "a"}]) == 1
    assert says(refusal="no") == says(reasoning_content="hm") == says(reasoning="hm") == 1
    assert says(tool_calls=[{"index": 0}]) == says(function_call={"name": "f"}) == 1


def test_fields_that_hold_nothing_are_no_content() -> None:
    # LiteLLM's proxy and vLLM spell out what they do not say.
    nothing = {"content": None, "tool_calls": None, "function_call": None, "reasoning": None, "refusal": None}
    assert says(role="assistant", **nothing) == 0
    assert says(content="", tool_calls=[], reasoning="", function_call={}) == 0
    assert StreamReading().feed(event(choices=[{"index": 0, "delta": None}])) == 0


def test_usage_with_its_cost() -> None:
    reading = StreamReading()
    usage = {"prompt_tokens": 200, "completion_tokens": 2, "cost": 0.25}
    reading.feed(event(choices=[], usage=None) + event(choices=[], usage=usage))
    assert reading.usage is not None
    assert reading.usage.cost == 0.25
    assert reading.usage.cached_tokens is None
    assert reading.usage.counts(something=True)


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": None}])
def test_a_usage_of_noughts_counts_nothing(usage: dict) -> None:
    reading = StreamReading()
    reading.feed(content("a") + event(choices=[], usage=usage))
    assert reading.usage is not None
    assert not reading.usage.counts(something=True)


@pytest.mark.parametrize(
    ("details", "cached"), [({"cached_tokens": 128}, 128), ({"cached_tokens": None}, None), ({}, None)]
)
def test_usage_with_what_came_from_a_cache(details: dict, cached: int | None) -> None:
    reading = StreamReading()
    usage = {"prompt_tokens": 200, "completion_tokens": 2, "prompt_tokens_details": details}
    reading.feed(event(choices=[], usage=usage))
    assert reading.usage is not None
    assert reading.usage.cached_tokens == cached


def test_an_answer_that_is_not_streamed() -> None:
    def whole(message: dict, **fields) -> tuple[StreamReading, int]:
        reading = StreamReading()
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return reading, reading.feed_whole(json.dumps({"choices": [choice], **fields}).encode())

    reading, estimate = whole({"role": "assistant", "content": "x" * 40})
    assert reading.whole
    assert (reading.content_events, estimate) == (1, 10)
    reading, estimate = whole({"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]})
    assert reading.content_events == 1
    assert estimate > 5
    reading, _ = whole({"content": "a"}, error="no room")
    assert (reading.error, reading.detail, reading.whole) == ("error_event", "no room", False)


def test_how_a_break_was_rescued_stands_in_the_receipt() -> None:
    reading = StreamReading()
    reading.feed(b': amaru {"decision":"d","attempts":2,"joined":"continued"}\n\n')
    assert reading.receipt is not None
    assert reading.receipt.joined == "continued"


def test_tool_calls_count_and_comments_do_not() -> None:
    reading = StreamReading()
    reading.feed(b": keep-alive\n\n: amaru not json\n\ndata:\n\n")
    assert (reading.content_events, reading.events) == (0, 0)
    assert reading.receipt is None
    reading.feed(event(choices=[{"delta": {"tool_calls": [{"index": 0}]}}]))
    assert reading.content_events == 1
