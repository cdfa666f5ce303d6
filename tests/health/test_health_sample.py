"""The figures of one answer, and that no answer can do harm."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amaru.domain import Kind
from amaru.health.observation import Sample
from amaru.health.sample import MAX_BYTES, hash_of, repetition_of, sample_of
from amaru.simulation.text import prompt_text

SALT = b"of this test"
CHAT: dict[str, Any] = {  # Any: JSON
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "large",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "A fine answer."}, "finish_reason": "stop"},
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}


def chat(**changes: object) -> dict[str, Any]:
    """A chat answer whose message, choice or top has other fields; ``...`` takes one away."""
    answer = json.loads(json.dumps(CHAT))
    for path, value in changes.items():
        *way, last = path.split("__")
        place = answer
        for name in way:
            place = place["choices"][0] if name == "choice" else place[name]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return answer


def look(answer: object, kind: Kind = Kind.CHAT, texts: list[str] | None = None, **more: Any) -> Sample:
    return sample_of(kind, json.dumps(answer).encode(), texts, SALT, **more)


# ---- shape -----------------------------------------------------------------------------------------------------------


def test_answers_of_one_api_have_one_shape_whatever_they_say() -> None:
    other = chat(id="chatcmpl-2", choice__message__content="Something else entirely.", choice__finish_reason="length")
    assert look(other).shape == look(CHAT).shape != 0


@pytest.mark.parametrize(
    "changed",
    [
        chat(choice__message__content=None),
        chat(choice__finish_reason=...),
        chat(created="yesterday"),
        chat(service_tier="default"),
        chat(choices={"0": CHAT["choices"][0]}),
        chat(usage=None),
    ],
    ids=["null", "missing", "other type", "new field", "no array", "null object"],
)
def test_a_changed_api_has_another_shape(changed: dict[str, Any]) -> None:
    assert look(changed).shape != look(CHAT).shape


def test_how_many_elements_an_array_has_and_in_which_order_names_stand_is_no_part_of_the_shape() -> None:
    twice = {**CHAT, "choices": CHAT["choices"] * 3}
    assert look(twice).shape == look(dict(reversed(twice.items()))).shape == look(CHAT).shape


def test_what_callers_fill_in_is_no_part_of_the_shape() -> None:
    one = chat(choice__message__tool_calls=[{"function": {"name": "f", "arguments": {"city": "Łódź"}}}])
    two = chat(choice__message__tool_calls=[{"function": {"name": "g", "arguments": {"n": 1, "deep": [{}]}}}])
    assert look(one).shape == look(two).shape


def test_names_that_are_data_are_no_part_of_the_shape() -> None:
    one, two = (chat(scores={f"word{n}": 1.0 for n in range(start, start + 100)}) for start in (0, 1000))
    assert look(one).shape == look(two).shape
    assert look(chat(bins={"1": 2})).shape == look(chat(bins={"77": 2})).shape


def test_a_number_is_a_number() -> None:
    assert look(chat(created=1.5)).shape == look(CHAT).shape
    assert look(chat(created=True)).shape != look(CHAT).shape


# ---- what must be there ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        (CHAT, ()),
        (chat(choices=...), ("choices",)),
        (chat(choices=None), ("choices",)),
        (chat(choices=[]), ("choices",)),
        (chat(choices=[None]), ("choices",)),
        (chat(choice__message=...), ("choices[].message",)),
        (chat(choice__message=None), ("choices[].message",)),
        (chat(choice__message__content=...), ("choices[].message.content",)),
        (chat(choice__message__content=None), ("choices[].message.content",)),
        (chat(choice__finish_reason=None), ("choices[].finish_reason",)),
        (chat(choice__message__content=None, choice__message__tool_calls=[{"id": "1"}]), ()),
        (chat(choice__message__content=None, choice__message__refusal="No."), ()),
        (chat(choice__message__content=None, choice__finish_reason="content_filter"), ()),
    ],
)
def test_missing_and_null_fields_of_a_chat_are_named(answer: dict[str, Any], missing: tuple[str, ...]) -> None:
    assert look(answer).missing == missing


def test_missing_fields_of_completions_and_embeddings_are_named() -> None:
    completion = {"choices": [{"text": "so", "finish_reason": "stop"}]}
    assert look(completion, Kind.COMPLETION).missing == ()
    assert look({"choices": [{"finish_reason": "stop"}]}, Kind.COMPLETION).missing == ("choices[].text",)
    assert look({"data": [{"embedding": [0.5]}]}, Kind.EMBEDDING).missing == ()
    assert look({"data": [{"embedding": None}]}, Kind.EMBEDDING).missing == ("data[].embedding",)
    assert look({"embeddings": []}, Kind.EMBEDDING).missing == ("data",)
    assert look({"accepted": True}, Kind.GPU_JOB).missing == ()


# ---- text ------------------------------------------------------------------------------------------------------------


def test_an_answer_without_text_is_empty_unless_something_else_was_asked_for() -> None:
    assert not look(CHAT).empty
    assert look(chat(choice__message__content="")).empty
    assert look(chat(choice__message__content=" \n")).empty
    assert look(chat(choice__message__content=None)).empty
    assert not look(chat(choice__message__content="", choice__message__audio={"id": "a"})).empty
    assert not look(chat(choice__message__content="", choice__finish_reason="content_filter")).empty
    assert not look({"data": [{"embedding": [0.5]}]}, Kind.EMBEDDING).empty


def test_text_that_was_read_elsewhere_counts() -> None:
    assert look(CHAT, texts=[" "]).empty
    renamed = chat(choice__message__content=..., choice__message__reply="A fine answer.")
    assert look(renamed).empty
    assert not look(renamed, texts=["A fine answer."]).empty
    assert look(renamed, texts=["A fine ", "answer."]).digest == look(CHAT).digest


def test_reasoning_and_calls_of_tools_are_text() -> None:
    assert look(chat(choice__message__content="", choice__message__reasoning_content="Hm.")).digest
    call = [{"function": {"name": "f", "arguments": "{}"}}]
    assert look(chat(choice__message__content=None, choice__message__tool_calls=call)).digest


def test_equal_texts_have_equal_hashes_under_one_salt_alone() -> None:
    assert hash_of("yes", SALT) == hash_of("yes", SALT) != hash_of("no", SALT)
    assert hash_of("yes", SALT) != hash_of("yes", b"another")
    assert hash_of("\ud800", SALT)
    assert look(CHAT).digest == hash_of("A fine answer.", SALT)


def test_no_text_is_in_a_sample() -> None:
    """Law 4."""
    secret = "Zanzibar"
    sample = look(chat(choice__message__content=secret, choice__message__parsed={secret: secret}), texts=[secret])
    assert secret not in repr(sample)


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("", 0, 0),
        ("no " * 11, 0, 0),
        ("no " * 12, 0.88, 0.9),
        ("I am sorry, I cannot do that. " * 50, 0.95, 1.0),
        (" ".join(str(n) for n in range(500)), 0, 0),
        ("哈" * 500, 0.95, 1.0),
        ("".join(chr(0x4E00 + n) for n in range(500)), 0, 0),
    ],
)
def test_repetition_is_the_share_of_repeated_4_grams(text: str, least: float, most: float) -> None:
    assert least <= repetition_of(text) <= most


def test_varied_text_hardly_repeats_itself() -> None:
    assert repetition_of(prompt_text(2000, random.Random(5))) < 0.01


# ---- streams ---------------------------------------------------------------------------------------------------------


def events(*chunks: object, end: str = "data: [DONE]\n\n") -> bytes:
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode() + end.encode()


def chunk(delta: dict[str, object], finish: str | None = None) -> dict[str, object]:
    return {"id": "1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


STREAM = (chunk({"role": "assistant"}), chunk({"content": "A fine"}), chunk({"content": " answer."}), chunk({}, "stop"))


def test_a_stream_is_read_as_its_events_together() -> None:
    sample = sample_of(Kind.CHAT, events(*STREAM), None, SALT, stream=True)
    assert sample.missing == ()
    assert not sample.empty
    assert sample.digest == hash_of("A fine answer.", SALT)
    longer = sample_of(Kind.CHAT, events(*STREAM[:2], *STREAM[1:]), None, SALT, stream=True)
    assert longer.shape == sample.shape != 0


def test_comments_and_other_line_ends_do_not_matter() -> None:
    plain = events(*STREAM)
    odd = b": hello\r\n\r\n" + plain.replace(b"\n", b"\r\n")
    assert sample_of(Kind.CHAT, odd, None, SALT, stream=True) == sample_of(Kind.CHAT, plain, None, SALT, stream=True)


def test_what_a_stream_lacks_is_named() -> None:
    def missing(*chunks: object) -> tuple[str, ...]:
        return sample_of(Kind.CHAT, events(*chunks), None, SALT, stream=True).missing

    assert missing(*STREAM[:3]) == ("choices[].finish_reason",)
    assert missing(STREAM[0], STREAM[3]) == ("choices[].delta.content",)
    assert missing({"choices": [{"finish_reason": "stop"}]}) == ("choices[].delta",)
    assert missing({"choices": []}) == ("choices",)


def test_a_part_of_a_stream_is_not_said_to_lack_what_may_stand_in_the_rest() -> None:
    sample = sample_of(Kind.CHAT, events(*STREAM[:1], end=""), None, SALT, stream=True, whole=False)
    assert sample.missing == ()
    assert not sample.empty
    assert sample_of(Kind.CHAT, events(*STREAM[:1]), [], SALT, stream=True, whole=False).empty


def test_of_a_stream_that_said_nothing_a_part_tells_that_its_text_stands_elsewhere() -> None:
    renamed = {"choices": [{"index": 0, "delta": {"text": "Little was"}, "finish_reason": None}]}
    part = sample_of(Kind.CHAT, events(renamed, end=""), [], SALT, stream=True, whole=False)
    assert part.missing == ("choices[].delta.content",)
    spoken = sample_of(Kind.CHAT, events(renamed, end=""), ["Little was"], SALT, stream=True, whole=False)
    assert spoken.missing == ()


# ---- hostile answers -------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "delta", "content", "data", "embedding", "finish_reason", "text", "1"]
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=30,
)


def in_bounds(sample: Sample) -> None:
    assert 0 <= sample.shape < 2**63
    assert 0 <= sample.digest < 2**63
    assert 0 <= sample.prompt < 2**63
    assert 0.0 <= sample.repetition <= 1.0
    assert all(name.isascii() for name in sample.missing)


@given(json_values, st.sampled_from(Kind), st.booleans(), st.booleans(), st.integers())
@settings(max_examples=300, deadline=None)
def test_any_json_is_read(value: object, kind: Kind, stream: bool, whole: bool, prompt: int) -> None:
    data = json.dumps(value).encode()
    if stream:
        data = b"data: " + data + b"\n\n"
    in_bounds(sample_of(kind, data, None, SALT, prompt, stream=stream, whole=whole))


@given(st.binary(max_size=200), st.sampled_from(Kind), st.booleans(), st.lists(st.text(max_size=30), max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read(data: bytes, kind: Kind, stream: bool, texts: list[str]) -> None:
    in_bounds(sample_of(kind, data, texts, SALT, stream=stream))


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b"[" + b"[]," * 80_000 + b"[]]",
        b"[" + b"{}," * 80_000 + b"{}]",
        b"[" + b"1," * 130_000 + b"1]",
        b"1" * 250_000,
        b'{"choices":[' + b'{"message":{"content":"x"}},' * 1000 + b"{}]}",
        b"{" + b",".join(b'"%d":%d' % (n, n) for n in range(20_000)) + b"}",
        b'"' + b"a " * (MAX_BYTES // 2) + b'"',
        b"\xff" * 1000,
        b"data: " * 40_000,
        b"\n\n" * 100_000,
        b"data: {}\n\n" * 25_000,
        b"x" * (4 * MAX_BYTES),
    ],
    ids=lambda data: repr(data[:12]),
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.timeout(120)
def test_large_and_deep_answers_cost_little(data: bytes, stream: bool) -> None:
    in_bounds(sample_of(Kind.CHAT, data, None, SALT, stream=stream))


def test_the_longest_texts_cost_little() -> None:
    sample = sample_of(Kind.CHAT, b"", ["word " * 10] * 200_000, SALT)
    assert sample.repetition > 0.9
    assert msgspec.structs.replace(sample, digest=0, repetition=0.0) == Sample(shape=0)
