"""YAML as it comes: broken, hostile, or merely surprising; and the line of everything in it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amaru.config import parse
from amaru.errors import ConfigError
from amaru.files.document import MAX_BYTES, read_document, scalar, write_document
from amaru.files.problems import looks_secret


def bomb(levels: int = 12) -> bytes:
    lines = ["l0: &l0 [" + ", ".join(["lol"] * 10) + "]"]
    lines += [f"l{n}: &l{n} [" + ", ".join([f"*l{n - 1}"] * 10) + "]" for n in range(1, levels)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "amaru.yaml: the file is empty"),
        (b"# only a comment\n", "amaru.yaml: the file is empty"),
        (b"- a\n- b\n", "amaru.yaml:1: must hold `name: value` lines, not a list"),
        (b"hello", "amaru.yaml:1: must hold `name: value` lines, not a single value"),
        (b"server:\n\tport: 1\n", "amaru.yaml:2:1: not valid YAML: a tab — indent with spaces"),
        (b"server: {port: 1\nversion: 1\n", "amaru.yaml:2:"),
        (b"providers: [\n", "amaru.yaml:2:1: not valid YAML"),
        (b"version: 1\n---\nversion: 1\n", "amaru.yaml:2:1: not valid YAML: a second document begins"),
        (b"version: *nope\n", "undefined alias"),
        (b"version: 1\nserver: {}\nversion: 1\n", "amaru.yaml:3: version: written twice (first on line 1)"),
        (b"version: 1\nlogging:\n  level: \xff\n", "amaru.yaml:3: not UTF-8: byte 0xff"),
        (b"version: 1\nlogging: {level: \x07}\n", "amaru.yaml:2: a character that YAML does not allow: U+0007"),
        (b"[" * 100_000, "amaru.yaml:1: nested deeper than 32 levels"),
        (b"a: &a [*a]\n", "anchors nest deeper"),
        (bomb(), "values once anchors are followed"),
        (b"x: !!python/object/apply:os.system [true]\n", "has no meaning here"),
        (b"? [a, b]\n: 1\n", "cannot be a name"),
        (b"<<: 3\n", "`<<` takes an anchored mapping"),
        (b"a: " + b"x" * MAX_BYTES, "amaru.yaml: the file is too large"),
    ],
)
def test_what_cannot_be_read_is_named(content: bytes, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(content, env={})
    assert any(says in problem for problem in caught.value.problems), caught.value.problems


def test_values_and_their_lines() -> None:
    document = read_document(b"\xef\xbb\xbfserver:\n  port: 1\noffers:\n  - id: a\n  - id: b\n    model: m\n")
    assert document.data == {"server": {"port": 1}, "offers": [{"id": "a"}, {"id": "b", "model": "m"}]}
    assert document.line_of(("server", "port")) == 2
    assert document.line_of(("offers", 1, "model")) == 6
    assert document.line_of(("offers", 1, "price", "x")) == 5


def test_anchors_and_merging_work() -> None:
    document = read_document(b"a: &base {x: 1, y: 2}\nb:\n  <<: *base\n  y: 3\nc: [*base]\n")
    assert document.data == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [{"x": 1, "y": 2}]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("1e3", 1000.0),
        ("~", None),
        ("true", True),
        ("0x1f", 31),
        ("-7", -7),
        (".5", 0.5),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    assert scalar(text) == value


def test_quotes_and_tags_make_text() -> None:
    assert read_document(b"a: '5'\nb: !!str 5\nc: \"true\"\n8080: x\n").data == {
        "a": "5",
        "b": "5",
        "c": "true",
        "8080": "x",
    }


@given(st.binary(max_size=200) | st.text("ab1:-,[]{}\n\t \"'#&*!|>?%@", max_size=40).map(str.encode))
def test_no_bytes_raise_anything_else(content: bytes) -> None:
    read_document(content)


@pytest.mark.parametrize("text", ["1e3", "0o17", "no", "12:30", "5", "", "~", "a\x85b", "\u2028", "- a", "x: y", " z "])
def test_texts_are_written_so_that_they_stay_texts(text: str) -> None:
    document = read_document(write_document({"a": text, "b": [text, 2.0, 0.5, True, None]}).encode())
    assert document.problems == []
    assert document.data == {"a": text, "b": [text, 2, 0.5, True, None]}


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
_sections = ["version", "server", "providers", "offers", "aliases", "tenants", "routing", "storage", "logging", "x"]


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(st.dictionaries(st.sampled_from(_sections), _plain, max_size=6))
def test_any_values_give_a_configuration_or_problems(data: dict[str, object]) -> None:
    import yaml

    problems: list[str] | None = None
    try:
        parse(yaml.safe_dump(data, allow_unicode=True), env={})
    except ConfigError as error:
        problems = error.problems
    assert problems is None or (problems and not any("\n" in problem for problem in problems))


@pytest.mark.parametrize(
    "text",
    [
        "gpt-4o-mini",
        "OPENAI_API_KEY",
        "https://api.openai.com/v1",
        "MY_APP_KEY_2026_PROD",
        "accounts/fireworks/models/llama-v3p3-70b-instruct",
        "meta-llama/Llama-3.3-70B-Instruct-Turbo",
    ],
)
def test_ordinary_words_do_not_look_secret(text: str) -> None:
    assert not looks_secret(text)


@pytest.mark.parametrize(
    "text",
    [
        "2f1c7c1e-8d4b-4c6a-9b1f-0123456789ab",
        "dGhpc-lzYX_Nlcm-V0a2V5-MTIzN_DU2Nz-g5MEFC-Q0RFR",
        "sk-abc",
        "Bearer x",
        "gsk_9f8",
        "a8f3k2l9x0q7w6e5r4t3y2",
        "eyJhbGciOi.x",
        "xai-1",
        "hf_abcdef",
    ],
)
def test_keys_look_secret(text: str) -> None:
    assert looks_secret(text)
