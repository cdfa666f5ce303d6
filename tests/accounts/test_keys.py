"""Keys: the right one finds its tenant, a wrong one finds a 401 that does not repeat it."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.accounts.keys import ANONYMOUS, KEY_PREFIX, KeyRing, hash_key, new_key
from amaru.domain import Tenant
from amaru.errors import RequestError

KEY, OTHER, OPERATOR = new_key(), new_key(), new_key()
TEAM = Tenant(id="team", key_hashes=(hash_key(KEY), hash_key(OTHER)))
RING = KeyRing([TEAM, Tenant(id="idle")], [hash_key(OPERATOR)])


def test_a_new_key_is_fresh_and_recognisable() -> None:
    assert KEY.startswith(KEY_PREFIX)
    assert len(KEY) == len(KEY_PREFIX) + 43
    assert KEY != OTHER


def test_a_hash_is_sha256_in_hex() -> None:
    assert hash_key("abc") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("header", ["Bearer {}", "bearer {}", "BEARER  {}", " Bearer {} ", "Bearer {}  "])
def test_bearer_in_every_spelling(header: str) -> None:
    assert RING.tenant_of(header.format(KEY).encode()) is TEAM
    assert RING.tenant_of(header.format(OTHER).encode()) is TEAM


def test_a_bare_key_has_its_own_header() -> None:
    assert RING.tenant_of_key(KEY.encode()) is TEAM
    for empty in (None, b""):
        with pytest.raises(RequestError):
            RING.tenant_of_key(empty)


@pytest.mark.parametrize("header", [None, b"", b"Bearer", b"Bearer ", b"Basic abc", b"sk-wrong", b"Bearer sk-wrong"])
def test_anything_else_is_refused_and_not_repeated(header: bytes | None) -> None:
    with pytest.raises(RequestError) as caught:
        RING.tenant_of(header)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert "sk-wrong" not in caught.value.message


@given(st.binary(max_size=100))
def test_no_bytes_raise_anything_else(header: bytes) -> None:
    with pytest.raises(RequestError):
        RING.tenant_of(header)
    assert not RING.is_operator(header)


def test_an_operators_key_is_not_a_tenants() -> None:
    assert RING.is_operator(f"bearer {OPERATOR}".encode())
    assert not RING.is_operator(f"Bearer {KEY}".encode())
    with pytest.raises(RequestError):
        RING.tenant_of(f"Bearer {OPERATOR}".encode())


def test_operators_endpoints_tell_what_is_missing() -> None:
    RING.require_operator(f"Bearer {OPERATOR}".encode())
    for header, status in ((None, 401), (f"Bearer {KEY}".encode(), 403)):
        with pytest.raises(RequestError) as caught:
            RING.require_operator(header)
        assert caught.value.status == status
    with pytest.raises(RequestError, match="operator_keys"):
        KeyRing([TEAM]).require_operator(f"Bearer {KEY}".encode())


def test_without_authentication_everybody_is_anonymous_and_may_operate() -> None:
    ring = KeyRing([TEAM], anonymous=ANONYMOUS)
    assert ring.tenant_of(None) is ANONYMOUS
    assert ring.tenant_of(b"Bearer whatever-a-client-sends") is ANONYMOUS
    assert ring.tenant_of(f"Bearer {KEY}".encode()) is TEAM
    assert ring.is_operator(None)
    assert not KeyRing([TEAM], [hash_key(OPERATOR)], anonymous=ANONYMOUS).is_operator(None)


def test_one_key_has_one_tenant() -> None:
    with pytest.raises(ValueError, match="team and twin share a key"):
        KeyRing([TEAM, Tenant(id="twin", key_hashes=(hash_key(KEY),))])
