"""Answers in a shape near OpenAI's: what is wrong with them is found by evidence, undone, and told in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from amaru.domain import Kind, Usage
from amaru.protocols.adapting import Adaptation, Adapted, Adapter, Blanks, EventAdapter, with_usage
from amaru.protocols.adapting_evidence import MAX_SAMPLE_BYTES, find_adaptation
from amaru.protocols.adapting_fields import LEVELS, Level, plain
from amaru.protocols.answers import parse_answer
from amaru.protocols.stream import StreamParser

BLANKS = Blanks("chatcmpl-own", 1_700_000_000, "their-model")
GOOD = {
    "id": "1", "object": "chat.completion", "created": 5, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}  # fmt: skip


def adapted(body: dict[str, Any], kind: Kind = Kind.CHAT) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A whole answer after its own adaptation, and that adaptation in words."""
    data = json.dumps(body).encode()
    found = find_adaptation(kind, data, stream=False)
    assert found is not None
    rewritten = Adapter(Adapted(found), kind, stream=False, blanks=BLANKS).rewrite(data)
    assert parse_answer(kind, rewritten).error is None
    return json.loads(rewritten), found.words


def with_choice(**fields: Any) -> dict[str, Any]:
    return {**GOOD, "choices": [fields]}


def events(*chunks: dict[str, Any], done: bool = True) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n" * done


def streamed(
    sample: bytes, kind: Kind = Kind.CHAT, *, choices: int = 1
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The chunks of a stream after its own adaptation, fed byte by byte, and that adaptation in words."""
    found = find_adaptation(kind, sample, stream=True)
    assert found is not None
    adapter = EventAdapter(Adapter(Adapted(found), kind, stream=True, blanks=BLANKS, choices=choices))
    told = b"".join(adapter.feed(sample[at : at + 1]) for at in range(len(sample))) + adapter.end()
    lines = [line.removeprefix(b"data: ") for line in told.split(b"\n\n") if line and b"[DONE]" not in line]
    return [json.loads(line) for line in lines], found.words


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (
            with_choice(index=0, message={"role": "assistant", "text": "Paris."}, finish_reason="stop"),
            ("choices[].message.text read as content",),
        ),
        (
            with_choice(
                index=0, message={"role": "assistant", "content": None, "output_text": "Paris."}, finish_reason="stop"
            ),
            ("choices[].message.output_text read as content",),
        ),
        (
            with_choice(index=0, message={"role": "assistant", "content": "Paris."}, stop_reason="end_turn"),
            ("choices[].stop_reason read as finish_reason",),
        ),
        (
            with_choice(index=0, message={"role": "assistant", "content": "Paris."}, finishReason="STOP"),
            ("choices[].finishReason read as finish_reason",),
        ),
        (
            {"outputs" if name == "choices" else name: value for name, value in GOOD.items()},
            ("outputs read as choices",),
        ),
        (
            with_choice(reply={"text": "Paris."}, finish_reason="stop"),
            (
                "choices[].reply read as message",
                "choices[].index missing or null: its place in the list",
                "choices[].message.text read as content",
                "choices[].message.role missing or null: assistant",
            ),
        ),
        (
            with_choice(index=0, text="Paris.", finish_reason="stop"),
            ("choices[].text read as message", "choices[].message.role missing or null: assistant"),
        ),
        (
            {**GOOD, "usage": {"input_tokens": 3, "output_tokens": 2}},
            (
                "usage.input_tokens read as prompt_tokens",
                "usage.output_tokens read as completion_tokens",
                "usage.total_tokens missing or null: the sum of the two",
            ),
        ),
    ],
)  # fmt: skip
def test_a_renamed_field_is_found_and_read(sent: dict[str, Any], words: tuple[str, ...]) -> None:
    assert adapted(sent) == (GOOD, words)


@pytest.mark.parametrize(
    ("sent", "told", "words"),
    [
        ({"data": GOOD}, GOOD, ("data read as the whole answer",)),
        (
            {"success": True, "errors": [], "id": "outer", "result": GOOD},
            {"success": True, "errors": [], **GOOD},
            ("result read as the whole answer",),
        ),
        (
            {"code": 0, "usage": GOOD["usage"], "Response": {**GOOD, "usage": None, "error": None}},
            {"code": 0, **GOOD, "error": None},
            ("Response read as the whole answer",),
        ),
        (
            {"payload": {"outputs" if name == "choices" else name: value for name, value in GOOD.items()}},
            GOOD,
            ("payload read as the whole answer", "outputs read as choices"),
        ),
    ],
)
def test_an_answer_in_an_envelope_is_taken_out(
    sent: dict[str, Any], told: dict[str, Any], words: tuple[str, ...]
) -> None:
    assert adapted(sent) == (told, words)


def test_so_are_embeddings_and_the_events_of_a_stream() -> None:
    vectors = {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]}
    usage = {"usage": {"prompt_tokens": 1, "total_tokens": 1}}
    assert adapted({"data": {**vectors, **usage}}, Kind.EMBEDDING) == (
        {**vectors, **usage},
        ("data read as the whole answer",),
    )
    chunks = [chunk({"role": "assistant", "content": ""}), chunk({"content": "Ur."}, "stop")]
    usage_chunk = {**chunk({}), "choices": [], **usage}
    wrapped = events(*({"status": "ok", "data": one} for one in (*chunks, usage_chunk)))
    told, words = streamed(wrapped)
    assert words == ("data read as the whole answer",)
    assert told == [{"status": "ok", **one} for one in (*chunks, usage_chunk)]


def test_whatever_else_comes_in_the_envelope_is_taken_out_too() -> None:
    found = find_adaptation(Kind.CHAT, json.dumps({"data": GOOD}).encode(), stream=False)
    assert found is not None
    adapter = Adapter(Adapted(found), Kind.CHAT, stream=False, blanks=BLANKS)
    for error in ({"data": {"error": {"message": "busy"}}}, {"error": {"message": "busy"}, "data": GOOD}):
        read = parse_answer(Kind.CHAT, adapter.rewrite(json.dumps(error).encode())).error
        assert read is not None
        assert read.message == "busy"
    for other in ({"data": None, "error": {"message": "busy"}}, {"data": []}, {"choices": [], "data": "x"}):
        body = json.dumps(other).encode()
        assert adapter.rewrite(body) is body


def test_an_event_of_usage_alone_comes_out_of_its_envelope() -> None:
    usage = {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    sample = events(*({"data": one} for one in (chunk({"role": "assistant", "content": "Ur."}, "stop"), usage)))
    found = find_adaptation(Kind.CHAT, sample, stream=True)
    assert found is not None
    adapter = EventAdapter(Adapter(Adapted(found), Kind.CHAT, stream=True, blanks=BLANKS))
    parser = StreamParser(include_usage=True)
    parser.feed(adapter.feed(sample) + adapter.end())
    assert (parser.malformed, parser.done, parser.usage) == (None, True, Usage(3, 2))


def test_what_is_missing_beside_the_answer_is_supplied() -> None:
    bare = {"choices": [{"message": {"content": "Paris."}}, {"message": {"content": "Ur."}}], "usage": None}
    answer, words = adapted(bare)
    assert answer == {
        "id": "chatcmpl-own", "object": "chat.completion", "created": 1_700_000_000, "model": "their-model",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Paris."}},
            {"index": 1, "message": {"role": "assistant", "content": "Ur."}},
        ],
        "usage": None,
    }  # fmt: skip
    assert words == (
        "id missing or null: one of amaru's own",
        "object missing or null: OpenAI's word for the kind of answer",
        "created missing or null: the time of its arrival",
        "model missing or null: the model that was asked for",
        "usage missing or null: amaru's own count",
        "choices[].index missing or null: its place in the list",
        "choices[].message.role missing or null: assistant",
    )


def test_usage_is_counted_by_whoever_knows_the_prompt() -> None:
    body = json.dumps({**GOOD, "usage": None}).encode()
    found = find_adaptation(Kind.CHAT, body, stream=False)
    assert found is not None
    assert Adapter(Adapted(found), Kind.CHAT, stream=False, blanks=BLANKS).counts_usage
    told = json.loads(with_usage(Kind.CHAT, body, Usage(3, 2)))
    assert told == GOOD
    assert with_usage(Kind.CHAT, json.dumps(GOOD).encode(), Usage(9, 9)) == json.dumps(GOOD).encode()
    assert json.loads(with_usage(Kind.EMBEDDING, b"{}", Usage(3, 0))) == {
        "usage": {"prompt_tokens": 3, "total_tokens": 3}
    }


def test_calls_of_tools_under_another_name() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    sent = with_choice(
        index=0, message={"role": "assistant", "content": None, "toolCalls": [call]}, finish_reason="tool_calls"
    )
    answer, words = adapted(sent)
    assert answer["choices"][0]["message"]["tool_calls"] == [call]
    assert words == ("choices[].message.toolCalls read as tool_calls",)


def test_completions_and_embeddings() -> None:
    sent = {
        **GOOD,
        "object": "text_completion",
        "choices": [{"index": 0, "generated_text": "Once", "done_reason": "max_tokens"}],
    }
    answer, words = adapted(sent, Kind.COMPLETION)
    assert answer["choices"] == [{"index": 0, "text": "Once", "finish_reason": "length"}]
    assert words == ("choices[].generated_text read as text", "choices[].done_reason read as finish_reason")
    vectors = {
        "object": "list",
        "model": "m",
        "embeddings": [{"values": [0.5, 1]}, {"values": [1.0, 0]}],
        "usage": GOOD["usage"],
    }
    answer, words = adapted(vectors, Kind.EMBEDDING)
    assert answer["data"] == [
        {"index": 0, "object": "embedding", "embedding": [0.5, 1]},
        {"index": 1, "object": "embedding", "embedding": [1.0, 0]},
    ]
    assert words[:2] == ("embeddings read as data", "data[].values read as embedding")


def chunk(delta: dict[str, Any], reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "id": "1", "object": "chat.completion.chunk", "created": 5, "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **fields,
    }  # fmt: skip


STREAM = (
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Par"}),
    chunk({"content": "is."}),
    chunk({}, "stop"),
)


def test_a_stream_of_other_names() -> None:
    sent = [
        {
            "object": "chat.completion.chunk",
            "outputs": [
                {"message": {"text" if key == "content" else key: text for key, text in choice["delta"].items()},
                 "stop_reason": choice["finish_reason"] and "end_turn"}
                for choice in part["choices"]
            ],
        }
        for part in STREAM
    ]  # fmt: skip
    sent.append({"object": "chat.completion.chunk", "outputs": [], "usage": {"input_tokens": 1, "output_tokens": 2}})
    told, words = streamed(events(*sent))
    supplied = {"id": "chatcmpl-own", "created": 1_700_000_000, "model": "their-model"}
    assert told[:-1] == [{**part, **supplied} for part in STREAM]
    assert told[-1]["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert words == (
        "outputs read as choices",
        "id missing or null: one of amaru's own",
        "created missing or null: the time of its arrival",
        "model missing or null: the model that was asked for",
        "choices[].message read as delta",
        "choices[].stop_reason read as finish_reason",
        "choices[].index missing or null: its place in the list",
        "choices[].delta.text read as content",
        "usage.input_tokens read as prompt_tokens",
        "usage.output_tokens read as completion_tokens",
        "usage.total_tokens missing or null: the sum of the two",
    )


def test_a_role_that_never_comes_stands_in_the_first_event_of_each_choice() -> None:
    told, words = streamed(events(chunk({"content": "Par"}), chunk({"content": "is."}), chunk({}, "stop")))
    assert [part["choices"][0]["delta"] for part in told] == [
        {"role": "assistant", "content": "Par"},
        {"content": "is."},
        {},
    ]
    assert words == ("choices[].delta.role missing or null: assistant",)
    two = chunk({"content": "Ur"})
    two["choices"][0]["index"] = 1
    told, _ = streamed(events(chunk({"content": "Paris"}), two, chunk({"content": "."})), choices=2)
    assert [part["choices"][0]["delta"].get("role") for part in told] == ["assistant", "assistant", None]


def test_which_of_several_choices_an_event_belongs_to_is_never_made_up() -> None:
    bare = [{**part, "choices": [{"delta": part["choices"][0]["delta"]}]} for part in STREAM]
    told, _ = streamed(events(*bare), choices=2)
    assert all("index" not in part["choices"][0] for part in told)
    told, _ = streamed(events(*bare))
    assert [part["choices"][0]["index"] for part in told] == [0, 0, 0, 0]


def test_a_stream_whose_text_stands_beside_the_delta() -> None:
    bare = [{**chunk({}), "choices": [{"index": 0, "text": text, "finish_reason": None}]} for text in ("Par", "is.")]
    _, words = streamed(events(*bare, chunk({}, "stop")))
    assert "choices[].text read as delta" not in words  # since one chunk has a delta of its own
    told, words = streamed(events(*bare))
    assert [part["choices"][0]["delta"] for part in told] == [
        {"content": "Par", "role": "assistant"},
        {"content": "is."},
    ]


def test_an_event_in_several_lines_comes_out_in_one() -> None:
    data = json.dumps(chunk({"text": "Hi"}), indent=1).encode()
    sample = b"".join(b"data: %b\n" % line for line in data.split(b"\n")) + b"\n"
    told, _ = streamed(sample)
    assert told[0]["choices"][0]["delta"] == {"role": "assistant", "content": "Hi"}


def test_what_is_no_event_of_an_answer_passes_as_it_is() -> None:
    found = find_adaptation(Kind.CHAT, events(chunk({"role": "assistant", "text": "Hi"})), stream=True)
    assert found is not None
    adapter = EventAdapter(Adapter(Adapted(found), Kind.CHAT, stream=True, blanks=BLANKS))
    others = (
        b': keep-alive\n\nevent: ping\ndata: {"choices":[{"delta":{"text":"x"}}]}\n\ndata: [DONE]\n\n'
        b'data: {"error":{}}\n\ndata: nonsense\r\n\r\n'
    )
    assert adapter.feed(others) + adapter.end() == others
    assert adapter.feed(b"data: after the end\n\n") == b"data: after the end\n\n"


@pytest.mark.parametrize(
    "sent",
    [
        with_choice(index=0, message={"role": "user", "text": "Paris.", "output_text": "Ur."}, finish_reason="stop"),
        {**{n: v for n, v in GOOD.items() if n != "choices"}, "outputs": GOOD["choices"], "results": GOOD["choices"]},
        with_choice(index=0, message={"role": "assistant", "words": "Paris."}, finish_reason="stop"),
        with_choice(index=0, message={"role": "assistant", "text": {"of": "Paris."}}, finish_reason="stop"),
        with_choice(index=0, message={"role": "assistant", "text": ""}, finish_reason="stop"),
        with_choice(index=0, message={"role": "assistant"}, finish_reason="stop"),
        {"error": {"message": "overloaded"}, "outputs": GOOD["choices"]},
        {"message": "overloaded", "detail": "try again"},
        {"outputs": []},
        {"outputs": ["Paris."]},
        {"data": GOOD, "result": GOOD},
        {"data": {"data": GOOD}},
        {"message_of_the_day": GOOD},
        {"data": {"error": {"message": "busy"}}},
        {"t-e-x-t" * 20: "x"},
        GOOD,
    ],
)  # fmt: skip
def test_where_it_would_be_a_guess_nothing_is_adapted(sent: dict[str, Any]) -> None:
    assert find_adaptation(Kind.CHAT, json.dumps(sent).encode(), stream=False) is None
    if sent is GOOD:
        assert find_adaptation(Kind.CHAT, events(*STREAM), stream=True) is None


def test_an_ambiguous_field_that_an_answer_can_be_without_is_left_alone() -> None:
    sent = with_choice(
        message={"role": "assistant", "content": "Ur."}, stop_reason="end_turn", done_reason="max_tokens"
    )
    answer, words = adapted(sent)
    assert "finish_reason" not in answer["choices"][0]
    assert words == ("choices[].index missing or null: its place in the list",)


def test_a_field_that_has_come_under_its_own_name_is_never_renamed() -> None:
    both = events(chunk({"role": "assistant", "text": "x"}), chunk({"content": "Paris."}, "stop", id=None))
    found = find_adaptation(Kind.CHAT, both, stream=True)
    assert found is not None
    assert found.words == ("id missing or null: one of amaru's own",)
    vllm = with_choice(message=GOOD["choices"][0]["message"], finish_reason="stop", stop_reason="END")  # type: ignore[index]
    assert adapted(vllm)[0]["choices"][0]["stop_reason"] == "END"


def test_values_keep_their_bytes_and_unknown_fields_stay() -> None:
    body = (
        b'{"id":"1","object":"x","created":1,"model":"m","usage":{"total_tokens":1.50e1},"odd":1e400,"choices":[{"index":0,'
        b'"message":{"role":"r","text":"\\u0041\\ud83d\\ude00","n":12345678901234567890123}}]}'
    )
    found = find_adaptation(Kind.CHAT, body, stream=False)
    assert found is not None
    rewritten = Adapter(Adapted(found), Kind.CHAT, stream=False, blanks=BLANKS).rewrite(body)
    for kept in (b'"content":"\\u0041\\ud83d\\ude00"', b"1.50e1", b"1e400", b"12345678901234567890123"):
        assert kept in rewritten


def test_how_many_answers_needed_it_is_counted() -> None:
    whole = json.dumps(
        with_choice(index=0, message={"role": "assistant", "text": "Paris."}, finish_reason="stop")
    ).encode()
    found = find_adaptation(Kind.CHAT, whole, stream=False)
    assert found is not None
    use = Adapted(found)
    for body in (whole, whole, json.dumps(GOOD).encode(), b"nonsense"):
        Adapter(use, Kind.CHAT, stream=False, blanks=BLANKS).rewrite(body)
    assert (use.answers, use.rewritten) == (4, 2)


def test_adaptations_of_several_kinds_of_answer_are_put_together() -> None:
    whole = find_adaptation(Kind.CHAT, json.dumps(with_choice(text="Ur.")).encode(), stream=False)
    stream = find_adaptation(Kind.CHAT, events(chunk({"text": "Ur."})), stream=True)
    later = find_adaptation(Kind.CHAT, events(chunk({"role": "assistant", "output_text": "Ur."})), stream=True)
    assert whole is not None
    assert stream is not None
    assert later is not None
    assert not whole.knows(Kind.CHAT, stream=True)
    both = whole | stream
    assert both.knows(Kind.CHAT, stream=True)
    assert both.knows(Kind.CHAT, stream=False)
    assert "choices[].text read as message" in both.words
    assert "choices[].delta.text read as content" in both.words
    assert "choices[].delta.output_text read as content" in (both | later).words
    assert "choices[].delta.text read as content" not in (both | later).words
    assert both | later | Adaptation(()) == both | later


def test_a_sample_cut_off_at_its_end_is_enough_and_an_endless_one_is_not_looked_at() -> None:
    cut = events(chunk({"role": "assistant", "text": "Hi"}), chunk({"text": " there"}), done=False)
    found = find_adaptation(Kind.CHAT, cut[:-20], stream=True)
    assert found is not None
    assert found.words == ("choices[].delta.text read as content",)
    assert find_adaptation(Kind.CHAT, cut + b" " * MAX_SAMPLE_BYTES, stream=True) is None
    assert find_adaptation(Kind.EMBEDDING, cut, stream=True) is None
    assert find_adaptation(Kind.GPU_JOB, cut, stream=False) is None


def _levels(level: Level) -> list[Level]:
    return [level] + [below for field in level.fields if field.below is not None for below in _levels(field.below)]


@pytest.mark.parametrize("which", LEVELS)
def test_each_name_in_the_table_means_one_field(which: tuple[Kind, bool]) -> None:
    for level in _levels(LEVELS[which]):
        names = [plain(name) for field in level.fields for name in (field.name, *field.others)]
        assert "" not in names
        assert len(names) == len(set(names)), level.path


def test_an_event_larger_than_any_may_be_is_handed_on_for_the_parser_to_refuse() -> None:
    found = find_adaptation(Kind.CHAT, events(chunk({"role": "assistant", "text": "Hi"})), stream=True)
    assert found is not None
    adapter = EventAdapter(Adapter(Adapted(found), Kind.CHAT, stream=True, blanks=BLANKS))
    parser = StreamParser(include_usage=False)
    for _ in range(10):
        parser.feed(adapter.feed(b"x" * 2**20))
    assert parser.malformed is not None
