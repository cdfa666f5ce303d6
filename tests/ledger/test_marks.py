"""A prompt's mark is told by who has the salt, and by nobody else; two tenants' have nothing to do with each other."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.domain import Kind
from amaru.errors import LedgerError
from amaru.ledger.marks import MOST_KEYS, PROMPT_FIELD, PromptMarks, prompt_of
from amaru.ledger.receipts import Decision, leaf_of, read_leaf, rfc3339

SALT = b"s" * 32
MESSAGES = b'[ {"role": "user",\t"content": "Gr\\u00fc\xc3\x9fe"} ]'

tenants = st.text(min_size=1, max_size=20)


def test_a_mark_is_what_openssl_computes_of_the_same_bytes() -> None:
    # printf 'amaru prompt mark v1\0team' | openssl dgst -sha256 -mac HMAC -macopt hexkey:7373… gives KEY, and
    # printf '"hello"' | openssl dgst -sha256 -mac HMAC -macopt hexkey:KEY gives this.
    mark = PromptMarks(SALT).mark("team", b'"hello"')
    assert mark == "hmac-sha256:641054aa954acb467b74464793d925c64dbc78205d7a02e72b30d173271fb6fa"
    decision = Decision(at=rfc3339(0.0), component="ai-mesh", prompt=mark)
    assert read_leaf(leaf_of(decision)) == decision


@given(salt=st.binary(min_size=32, max_size=32), tenant=tenants, prompt=st.binary(max_size=300))
def test_a_mark_is_an_hmac_under_the_tenants_own_key(salt: bytes, tenant: str, prompt: bytes) -> None:
    key = hmac.new(salt, b"amaru prompt mark v1\0" + tenant.encode(), hashlib.sha256).digest()
    assert PromptMarks(salt).mark(tenant, prompt) == "hmac-sha256:" + hmac.new(key, prompt, hashlib.sha256).hexdigest()


@given(one=tenants, other=tenants, prompt=st.binary(max_size=50))
def test_only_one_tenants_equal_prompts_have_equal_marks(one: str, other: str, prompt: bytes) -> None:
    marks = PromptMarks(SALT)
    assert marks.mark(one, prompt) == marks.mark(one, prompt) == PromptMarks(SALT).mark(one, prompt)
    assert (marks.mark(one, prompt) == marks.mark(other, prompt)) == (one == other)
    assert marks.mark(one, prompt) != marks.mark(one, prompt + b" ")
    assert marks.mark(one, prompt) != PromptMarks(b"t" * 32).mark(one, prompt)


def test_more_tenants_than_are_remembered_keep_their_marks() -> None:
    marks = PromptMarks(SALT)
    first = marks.mark("tenant-0", b"[]")
    assert len({marks.mark(f"tenant-{n}", b"[]") for n in range(2 * MOST_KEYS)}) == 2 * MOST_KEYS
    assert marks.mark("tenant-0", b"[]") == first


@pytest.mark.parametrize("kind", PROMPT_FIELD)
def test_a_prompt_is_found_in_a_body_byte_for_byte_and_alone(kind: Kind) -> None:
    body = b' {"model": "sim", "' + PROMPT_FIELD[kind].encode() + b'" : ' + MESSAGES + b' , "n": 1}\n'
    assert bytes(prompt_of(body, where="body.json")) == MESSAGES
    assert bytes(prompt_of(b"\n " + MESSAGES + b"\r\n", where="prompt.json")) == MESSAGES


@given(st.text(), st.booleans())
def test_a_prompt_that_is_one_text_is_found(text: str, ascii_only: bool) -> None:
    sent = json.dumps(text, ensure_ascii=ascii_only).encode()
    assert bytes(prompt_of(b'{"prompt":' + sent + b"}", where="body.json")) == sent
    assert bytes(prompt_of(sent, where="prompt.json")) == sent


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "is not JSON"),
        (b"Say hello.", "is not JSON"),
        (b'{"messages": [}', "is not JSON"),
        (b'"caf\xe9"', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"model": "sim"}', "has none of messages, prompt, input"),
        (b'{"messages": [], "input": []}', "has messages and input: give"),
        (b'{"messages": 5}', "holds no prompt"),
        (b"null", "holds no prompt"),
    ],
)
def test_what_holds_no_prompt_is_refused_with_where_it_is_from(body: bytes, said: str) -> None:
    with pytest.raises(LedgerError, match=said) as raised:
        prompt_of(body, where="body.json")
    assert str(raised.value).startswith("body.json: ")
