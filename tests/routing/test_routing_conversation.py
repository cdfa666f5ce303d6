"""What is remembered of a conversation: its encoding, how turns add to it, and the table that machines keep it in."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amaru.domain import FailureKind
from amaru.routing import conversation_table
from amaru.routing.conversation import (
    MOST_BYTES,
    MOST_FAILED,
    Conversation,
    Failed,
    Turn,
    after,
    decode,
    encode,
    key_of,
    mark_of,
)
from amaru.routing.conversation_table import WAYS, ConversationTable
from amaru.routing.shared import Memory

marks = st.binary(min_size=8, max_size=8)
instants = st.floats(0.0, 1e11)
counts = st.integers(0, 2**48)
failures = st.builds(Failed, marks, st.sampled_from(FailureKind), instants)
conversations = st.builds(
    Conversation, offer=marks, at=instants, turns=counts, prompt_tokens=counts, cached_tokens=counts,
    cost_usd=st.floats(0.0, 1e12), failed=st.lists(failures, max_size=MOST_FAILED).map(tuple),
)  # fmt: skip
turns = st.builds(
    Turn, at=instants, cost_usd=st.floats(0.0, 1e6), offer=st.none() | marks, prompt_tokens=st.integers(0, 10**7),
    cached_tokens=st.integers(0, 10**7), failed=st.lists(failures, max_size=6).map(tuple),
)  # fmt: skip


# ---- the encoding ---------------------------------------------------------------------------------------------------


@given(conversations)
def test_what_is_encoded_is_small_and_decodes_to_itself(conversation: Conversation) -> None:
    data = encode(conversation)
    assert len(data) <= MOST_BYTES
    assert decode(data) == conversation


@given(st.binary(max_size=300))
def test_junk_is_nothing(junk: bytes) -> None:
    assert decode(junk) is None or encode(decode(junk)) is not None


@pytest.mark.parametrize(
    "wrong",
    [
        [2, b"", 0.0, 0, 0, 0, 0.0, []],  # of a version to come
        [1, b"", 0.0, -1, 0, 0, 0.0, []],
        [1, b"x" * 9, 0.0, 0, 0, 0, 0.0, []],
        [1, b"", float("nan"), 0, 0, 0, 0.0, []],
        [1, b"", 0.0, 0, 0, 0, float("inf"), []],
        [1, b"", 0.0, 0, 0, 0, 0.0, [[b"", "no_such_failure", 0.0]]],
        [1, b"", 0.0, 0, 0, 0, 0.0, [[b"", "connect", 0.0]] * (MOST_FAILED + 1)],
        [1, b"", 0.0, 0, 0, 0, 0.0, [], "more"],
        {"version": 1},
        "text",
    ],
)
def test_what_does_not_hold_is_not_believed(wrong: Any) -> None:
    assert decode(msgspec.msgpack.encode(wrong)) is None


def test_keys_tell_tenants_sessions_and_salts_apart_and_name_none() -> None:
    key = key_of(b"salt", "acme", "s-1")
    assert key == key_of(b"salt", "acme", "s-1")
    assert (
        len({key, key_of(b"salt", "acm", "es-1"), key_of(b"other", "acme", "s-1"), key_of(b"salt", "acme", "s-2")}) == 4
    )
    assert b"s-1" not in key


# ---- turns ----------------------------------------------------------------------------------------------------------


@given(st.lists(turns, max_size=12))
def test_turns_add_up_and_stay_small(log: list[Turn]) -> None:
    conversation = None
    for turn in log:
        conversation = after(conversation, turn)
        data = encode(conversation)
        assert len(data) <= MOST_BYTES
        assert decode(data) == conversation
    if conversation is not None:
        answered = [turn for turn in log if turn.offer is not None]
        assert conversation.turns == len(answered)
        assert conversation.cost_usd == pytest.approx(sum(turn.cost_usd for turn in log))
        if answered:
            assert (conversation.offer, conversation.at) == (answered[-1].offer, answered[-1].at)
        assert len({one.offer for one in conversation.failed}) == len(conversation.failed)


def test_a_turn_that_nobody_answered_leaves_who_answered_last() -> None:
    first = after(None, Turn(at=1.0, cost_usd=0.5, offer=mark_of("a"), prompt_tokens=100))
    fell = Failed(mark_of("a"), FailureKind.CONNECT, 2.0)
    second = after(first, Turn(at=2.0, cost_usd=0.25, failed=(fell,)))
    assert second == Conversation(offer=mark_of("a"), at=1.0, turns=1, prompt_tokens=100, cost_usd=0.75, failed=(fell,))
    assert second.touched_at == 2.0


# ---- the table ------------------------------------------------------------------------------------------------------


def of_bucket(number: int, which: int) -> bytes:
    """A key that falls into the bucket of that number."""
    return number.to_bytes(4, "little") + which.to_bytes(12, "big")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), conversations), max_size=30))
def test_a_table_gives_back_what_it_was_given(log: list[tuple[int, Conversation]]) -> None:
    table, plain = ConversationTable(), {}
    for which, conversation in log:
        key = of_bucket(which * 17, 1)
        assert table.change(key, lambda _, new=conversation: new) == conversation  # type: ignore[misc]
        plain[key] = conversation
    assert {key: table.get(key) for key in plain} == plain
    assert table.get(os.urandom(16)) is None


def test_a_change_sees_what_was_there() -> None:
    table, key = ConversationTable(), of_bucket(3, 3)
    for turn in range(5):
        table.change(key, lambda before: after(before, Turn(at=1.0, cost_usd=0.0, offer=mark_of("a"))))
        found = table.get(key)
        assert found is not None
        assert found.turns == turn + 1


def test_a_full_bucket_loses_its_oldest_and_the_table_never_grows() -> None:
    table = ConversationTable()
    for which in range(3 * WAYS):
        table.change(of_bucket(5, which + 1), lambda _, at=float(which + 1): Conversation(at=at))  # type: ignore[misc]
    kept = [which for which in range(3 * WAYS) if table.get(of_bucket(5, which + 1)) is not None]
    assert kept == list(range(2 * WAYS, 3 * WAYS))
    for which in range(50_000):
        table.change(os.urandom(16), lambda _, at=float(which): Conversation(at=at))  # type: ignore[misc]
    assert len(table._cells) == conversation_table.SIZE


@given(st.integers(0, conversation_table._BUCKET_BYTES - 1), st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_a_torn_entry_reads_as_none(at: int, flip: int) -> None:
    """Whatever byte is not what was written: what comes out is what was put in, or nothing."""
    table, key = ConversationTable(memoryview(bytearray(conversation_table._BUCKET_BYTES))), of_bucket(0, 7)
    held = Conversation(offer=mark_of("a"), at=5.0, turns=3, prompt_tokens=77)
    table.change(key, lambda _: held)
    table._cells[at] ^= flip
    assert table.get(key) in (held, None)


def test_workers_of_a_machine_see_one_table() -> None:
    made = Memory.create(2)
    one, other = (Memory(os.dup(made.file), 2, worker).conversations for worker in range(2))
    held = Conversation(offer=mark_of("a"), at=5.0, turns=1)
    one.change(of_bucket(9, 9), lambda _: held)
    assert other.get(of_bucket(9, 9)) == held
    # Nor does it lie over what else is shared.
    assert not made.live.any()
    assert not made.places.any()


ADDING = """
import sys
from amaru.routing.conversation import Turn, after, mark_of
from amaru.routing.shared import Memory
file, worker = int(sys.argv[1]), int(sys.argv[2])
table = Memory(file, 2, worker).conversations
for turn in range(1000):
    for which in range(3):
        key = which.to_bytes(16, "little")[:4] + b"k" * 12
        table.change(key, lambda before: after(before, Turn(at=1.0, cost_usd=1.0, offer=mark_of("a"))))
"""


def test_turns_that_two_workers_end_at_once_are_both_counted() -> None:
    made = Memory.create(2)
    workers = [
        subprocess.Popen([sys.executable, "-c", ADDING, str(made.file), str(worker)], pass_fds=(made.file,))
        for worker in range(2)
    ]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    for which in range(3):
        found = made.conversations.get(which.to_bytes(16, "little")[:4] + b"k" * 12)
        assert found is not None
        assert (found.turns, found.cost_usd) == (2000, 2000.0)
