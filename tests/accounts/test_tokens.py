"""Tokens where no provider told them: counted if the vocabulary is here, else estimated, and marked either way."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.accounts import tokens
from amaru.accounts.tokens import (
    MAX_COUNTED_CHARS,
    count_sent,
    count_tokens,
    count_usage,
    estimate_tokens,
    load_vocabularies,
    may_be_tokens,
    unload_vocabularies,
)
from amaru.domain import Provenance

TEXT = "The quick brown fox jumps over the lazy dog. " * 20


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every attempt to reach a network fails the test."""

    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("something reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    unload_vocabularies()
    yield
    unload_vocabularies()


def bundled_vocabularies() -> Path:
    """litellm (a development dependency) brings vocabularies along, named as tiktoken names them."""
    pytest.importorskip("tiktoken")
    spec = find_spec("litellm")
    if spec is None or spec.origin is None:
        pytest.skip("litellm is not installed")
    directory = Path(spec.origin).parent / "litellm_core_utils" / "tokenizers"
    if not directory.is_dir():
        pytest.skip("this litellm bundles no vocabularies")
    return directory


def test_counted_with_the_models_own_vocabulary() -> None:
    if "o200k_base" not in load_vocabularies(["o200k_base"], [bundled_vocabularies()]):
        pytest.skip("this litellm bundles no o200k_base")
    usage = count_usage("openai/gpt-4o-mini", "Hello, world!", "Hello, world!")
    assert (usage.input_tokens, usage.output_tokens) == (4, 4)
    assert usage.source is Provenance.COUNTED
    assert count_usage("gpt-4o", 17, ["Hello, ", "world!"]).source is Provenance.ESTIMATED  # a part was estimated
    assert count_usage("gpt-4o", 17, ["Hello, ", "world!"]).output_tokens == 4
    assert count_tokens("llama-3.1-70b", TEXT) is None
    assert count_usage("llama-3.1-70b", TEXT, TEXT).source is Provenance.ESTIMATED
    cut_short = count_usage("gpt-4o", TEXT, TEXT, output_chars=2 * len(TEXT))
    assert cut_short.source is Provenance.ESTIMATED
    assert cut_short.output_tokens == 2 * count_usage("gpt-4o", TEXT, TEXT).output_tokens
    assert count_tokens("gpt-4o", "<|endoftext|>") != 1  # a caller's text, not a special token
    assert count_tokens("gpt-4o", "\ud800") is not None


def test_the_time_of_counting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Spy:
        def encode_ordinary(self, text: str) -> list[int]:
            seen.append(len(text))
            return [0] * (len(text) // 4)

    monkeypatch.setattr(tokens, "_encoding_of", lambda model: Spy())
    usage = count_usage("gpt-4o", "x" * 1_000_000, "")
    assert seen == [tokens.MAX_COUNTED_CHARS]
    assert usage.input_tokens == 250_000
    assert usage.source is Provenance.ESTIMATED


def test_nothing_is_fetched_and_nothing_is_loaded_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert load_vocabularies() == ()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert load_vocabularies() == ()
    assert count_usage("gpt-4o", TEXT, TEXT).source is Provenance.ESTIMATED
    assert list(tmp_path.iterdir()) == []


def test_a_forged_vocabulary_is_not_used(tmp_path: Path) -> None:
    pytest.importorskip("tiktoken")
    url = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"
    forged = tmp_path / hashlib.sha1(url.encode()).hexdigest()
    forged.write_text("IQ== 0\n")
    assert load_vocabularies(["o200k_base"], [tmp_path]) == ()
    assert forged.exists()  # nor is it touched


def test_without_tiktoken_figures_are_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(tokens, "import_module", missing)
    assert load_vocabularies() == ()
    assert count_usage("gpt-4o", TEXT, TEXT).source is Provenance.ESTIMATED


def test_empty_texts_have_no_tokens() -> None:
    usage = count_usage("m", 12, "")
    assert (usage.input_tokens, usage.output_tokens, usage.source) == (12, 0, Provenance.ESTIMATED)


@pytest.mark.parametrize(
    ("text", "least", "most"),  # about half and twice what o200k_base and cl100k_base count
    [
        (TEXT, 180, 260),
        ("Съешь же ещё этих мягких французских булок, да выпей чаю", 12, 40),
        ("敏捷的棕色狐狸跳过了懒狗", 8, 26),
        ("こんにちは、世界。今日はいい天気ですね", 8, 26),
        ("빠른 갈색 여우가 게으른 개를 뛰어넘는다", 10, 34),
        ("नमस्ते दुनिया, आप कैसे हैं", 8, 34),
        ("def f(x):\n    return x**2 + 3*x\n" * 10, 70, 180),
        ("😀😃🎉", 3, 12),
    ],
)
def test_estimates_are_near_in_every_script(text: str, least: int, most: int) -> None:
    assert least <= estimate_tokens(text) <= most
    assert estimate_tokens(text.encode()) == estimate_tokens(text)


@given(st.text(), st.text())
def test_estimates_grow_with_the_text(one: str, other: str) -> None:
    assert estimate_tokens(one) <= estimate_tokens(one + other) <= estimate_tokens(one) + estimate_tokens(other)
    assert (estimate_tokens(one) == 0) == (one == "")


@given(st.binary())
def test_any_bytes_can_be_estimated(data: bytes) -> None:
    assert 0 <= estimate_tokens(data) <= 2 * len(data)


# ---- a part of an answer --------------------------------------------------------------------------------------------


def test_a_part_is_counted_with_the_models_own_vocabulary() -> None:
    if "o200k_base" not in load_vocabularies(["o200k_base"], [bundled_vocabularies()]):
        pytest.skip("this litellm bundles no o200k_base")
    assert count_sent("gpt-4o", "Hello, world!", 1) == (4, Provenance.COUNTED)
    assert count_sent("gpt-4o", "Hello, world!", 13) == (4, Provenance.COUNTED)
    assert count_sent("gpt-4o", "x " * MAX_COUNTED_CHARS, 5)[1] is Provenance.ESTIMATED, "it would take too long"


@pytest.mark.parametrize(
    ("text", "events", "expected"),
    [
        ("The capital of France is", 5, 5),  # a token at a time
        ("I", 1, 1),
        ("unbelievably", 1, 1),  # within the slack of few events
        ("敏捷的棕色狐狸", 7, 7),
        ("🎉🎉", 4, 4),
        (TEXT, 1, 225),  # several tokens to an event: by size
        (TEXT, 120, 225),
        (TEXT, len(TEXT), 225),  # a letter to an event: by size as well
        ("Hello", 5, 2),
        ("", 0, 0),
    ],
)
def test_a_part_is_as_many_tokens_as_events_where_they_have_the_size_of_tokens(
    text: str, events: int, expected: int
) -> None:
    assert count_sent("llama-3.1-70b", text, events) == (expected, Provenance.ESTIMATED)


@given(st.text(min_size=1, max_size=300), st.integers(1, 400))
def test_a_part_has_a_token_at_least_and_never_wildly_many(text: str, events: int) -> None:
    tokens_sent, source = count_sent("m", text, events)
    assert source is Provenance.ESTIMATED
    assert 1 <= tokens_sent <= 2 * estimate_tokens(text)
    assert may_be_tokens(text, tokens_sent)
