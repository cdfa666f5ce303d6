"""Tokens, words, and instances of schemas."""

import random

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.simulation.json_schema import instance
from amaru.simulation.text import VOCABULARY, count_tokens, fingerprint, prompt_text, tokens_of, words


@given(st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(tokens_of(text)) == text
    assert count_tokens(text) == len(tokens_of(text))


@given(st.integers(0, 300), st.integers())
def test_n_words_have_n_tokens(count: int, seed: int) -> None:
    made = words(count, random.Random(seed))
    assert len(made) == count
    assert tokens_of("".join(made)) == made
    assert count_tokens(prompt_text(count, random.Random(seed))) == count


def test_the_rule_as_documented() -> None:
    assert tokens_of("The cat") == ["The", " cat"]
    assert tokens_of("internationalisation") == ["internat", "ionalisa", "tion"]
    assert tokens_of("end \n") == ["end", " \n"]
    assert any(not word.isascii() for word in VOCABULARY)


def test_fingerprint_is_the_same_in_every_process() -> None:
    assert fingerprint("a", 1, None) == fingerprint("a", 1, None) != fingerprint("a", 2, None)
    assert fingerprint("Hello") == 0xF7D18982  # CRC-32: hash() would differ from run to run


SCHEMAS = [
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False},
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 12, "maxLength": 14},
            "unit": {"enum": ["C", "F"]},
            "kind": {"const": "weather"},
            "degrees": {"type": "number", "minimum": -3, "exclusiveMaximum": 4},
            "hours": {"type": "array", "items": {"type": "integer", "multipleOf": 6, "minimum": 5}, "minItems": 2},
            "note": {"type": ["string", "null"]},
            "when": {"type": "string", "format": "date-time"},
        },
        "required": ["name", "unit", "kind", "degrees", "hours", "note", "when"],
    },
    {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "left": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                    "v": {"type": "boolean"},
                },
                "required": ["left", "v"],
            }
        },
        "$ref": "#/$defs/node",
    },
    {"allOf": [{"properties": {"x": {"type": "integer"}}, "required": ["x"]}, {"required": ["y"]}], "type": "object"},
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "minItems": 2, "items": False},
    {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "maxItems": 2},
    {"oneOf": [{"type": "integer", "maximum": -5}, {"type": "string"}]},
    {"type": "number", "multipleOf": 0.5, "minimum": 1.2},
    True,
]


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("seed", range(8))
def test_an_instance_validates(schema: dict | bool, seed: int) -> None:
    jsonschema.validate(instance(schema, random.Random(seed)), schema)


@pytest.mark.parametrize(
    ("schema", "words_of_error"),
    [
        ({"$ref": "#/$defs/none"}, "leads nowhere"),
        ({"$ref": "http://example.com/x"}, "outside the schema"),
        ({"type": "colour"}, "unknown type 'colour'"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "nests without end"),
    ],
)
def test_a_schema_that_cannot_be_read_is_named(schema: dict, words_of_error: str) -> None:
    with pytest.raises(ValueError, match=words_of_error):
        instance(schema, random.Random(0))
