"""A broken stream: when it lacks nothing but its end, and who is asked for what of the rest."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from amaru.domain import Capability, Join, Kind, Offer, PrefillStyle, Price
from amaru.mesh.rescue import Broken
from amaru.protocols.openai import OpenAIRequest, parse_request
from amaru.protocols.stream import Sent
from amaru.routing.board import Board

HEAD = b'data: {"id":"c-1","model":"m-1","choices":[]}\n\n'
TEXT = "One two three four"
SENT = Sent(TEXT, events=4)


def chat(**fields: Any) -> OpenAIRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Count."}], "stream": True, **fields}
    return parse_request(Kind.CHAT, msgspec.json.encode(body))


def completion(**fields: Any) -> OpenAIRequest:
    return parse_request(Kind.COMPLETION, msgspec.json.encode({"model": "m", "prompt": "Count.", **fields}))


def broken(request: OpenAIRequest, sent: Sent = SENT, *rows: int) -> Broken:
    found = Broken(request, continued_its_own=False)
    for row in rows or (0,):
        found.broke(row, HEAD, sent)
    return found


@pytest.fixture
def board() -> Board:
    """Two offers that continue, and between them one that does not."""
    able = Capability.STREAM | Capability.PREFILL
    offers = [
        Offer(id=name, provider=name, resource="m", model="m", price=Price(1.0, None, 1.0), capabilities=can)
        for name, can in (("a", able), ("b", Capability.STREAM), ("c", able))
    ]
    return Board(offers, {}, rng=random.Random(1))


@pytest.mark.parametrize(
    ("request_", "sent", "complete"),
    [
        (chat(max_tokens=4), SENT, True),
        (chat(max_completion_tokens=3), SENT, True),
        (chat(max_tokens=5), SENT, False),
        (chat(), SENT, False),
        (chat(max_tokens=4, n=2), Sent(choices=frozenset((0,))), False),
        (chat(max_tokens=4), Sent(TEXT, "Hm.", 4, 1), False),
        (chat(max_tokens=4), Sent(TEXT, events=4, opaque=True), False),
        (chat(max_tokens=7), Sent("One two", events=7), False),
        (completion(max_tokens=4), SENT, True),
        (completion(max_tokens=4, echo=True), SENT, False),
        (completion(max_tokens=0, echo=True, logprobs=1), Sent(), False),
        (completion(max_tokens=0), Sent(), False),
    ],
    ids=[
        "as many as allowed", "more", "fewer", "no limit", "several choices", "reasoning", "an image", "letters",
        "completion", "echo", "nothing sent", "nothing allowed",
    ],
)  # fmt: skip
def test_an_answer_lacks_only_its_end_where_it_has_all_the_tokens_that_were_allowed(
    request_: OpenAIRequest, sent: Sent, complete: bool
) -> None:
    assert broken(request_, sent).is_complete is complete


def test_those_that_continue_come_first_in_their_order_until_they_would_not(board: Board) -> None:
    way_on = broken(chat())
    assert way_on.preferred([1, 2, 0], board) == [2, 0, 1]
    way_on.refused[2] = False
    assert way_on.preferred([1, 2, 0], board) == [0, 1, 2]
    board.prefill_refused(0)
    assert way_on.preferred([1, 2, 0], board) == [1, 2, 0]
    assert broken(chat(), Sent(reasoning="Hm.", reasoning_events=1)).preferred([1, 2, 0], board) == [1, 2, 0]


def test_what_is_asked_of_whom(board: Board) -> None:
    way_on = broken(chat(max_tokens=10))
    able, other = way_on.ask(board.offers[0], 0, board), way_on.ask(board.offers[1], 1, board)
    assert (able.join, other.join) == (Join.CONTINUED, Join.REPEATED)
    asked = msgspec.json.decode(able.request.fields["messages"])
    assert asked[-1] == {"role": "assistant", "content": TEXT}
    assert msgspec.json.decode(able.request.fields["max_tokens"]) == 6
    assert other.request is way_on.request
    unseen = broken(chat(), Sent()).ask(board.offers[0], 0, board)
    assert (unseen.join, unseen.joint) == (Join.UNSEEN, None)
    some = broken(chat(n=2), Sent(choices=frozenset((0,)))).ask(board.offers[0], 0, board)
    assert some.join is Join.UNSEEN
    assert some.joint is not None


def test_what_stood_in_the_prompt_of_a_continuation_is_told_as_answer(board: Board) -> None:
    ask = broken(chat(max_tokens=10)).ask(board.offers[0], 0, board)
    assert ask.joint is not None
    assert ask.tokens is not None
    sent = ask.tokens.content
    usage = {"prompt_tokens": 7 + sent, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 7 + sent}}
    told = ask.joint.take(b"data: %b\n\n" % msgspec.json.encode({"choices": [], "usage": usage}))
    told += ask.joint.take(b'data: {"choices":[{"index":0,"delta":{"content":" five"},"finish_reason":"stop"}]}\n\n')
    first = msgspec.json.decode(told.split(b"\n\n")[0].removeprefix(b"data: "))
    assert first["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3 + sent,
        "total_tokens": 10 + sent,
        "prompt_tokens_details": {"cached_tokens": 7},
    }


def test_an_offers_style_of_continuing_is_kept(board: Board) -> None:
    offer = msgspec.structs.replace(board.offers[0], prefill_style=PrefillStyle.PREFIX)
    asked = broken(chat()).ask(offer, 0, board).request
    assert msgspec.json.decode(asked.fields["messages"])[-1]["prefix"] is True
