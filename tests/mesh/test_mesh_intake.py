"""The intake: what waits is bounded by count and by bytes, and holds text only of what is sampled."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from amaru.domain import Attempt, FailureKind, Kind, Provenance, Usage
from amaru.health.observation import Observation
from amaru.mesh import intake
from amaru.mesh.intake import Intake
from amaru.protocols.openai import OpenAIRequest, parse_request
from amaru.providers.base import Facts, WholeReply

NOW = 1_800_000_000.0
WORDS = "It is a quiet town, with a harbour and two bakers."


def request(words: str = "Tell me of your town.", *, stream: bool = False) -> OpenAIRequest:
    body = {"model": "sim", "messages": [{"role": "user", "content": words}], "stream": stream}
    return parse_request(Kind.CHAT, msgspec.json.encode(body))


def reply(words: str = WORDS) -> WholeReply:
    choice = {"index": 0, "message": {"role": "assistant", "content": words}, "finish_reason": "stop"}
    body = msgspec.json.encode({"id": "x", "object": "chat.completion", "choices": [choice]})
    facts = Facts(finish_reasons=("stop",), output_text=[words], output_chars=len(words))
    return WholeReply(200, body, b"application/json", facts)


def attempt(offer: str = "a/sim", **fields: Any) -> Attempt:
    return Attempt(offer=offer, provider=offer.partition("/")[0], started_ms=0.0, latency_ms=120.0, **fields)


class Taking:
    """An intake whose clock stands still, and what comes out of it."""

    def __init__(self, samples_per_s: float = 20.0) -> None:
        self.now = NOW
        self.intake = Intake(b"salt", lambda: self.now, samples_per_s)

    def taken(self) -> list[Observation]:
        return [self.intake.reduce(left) for left in self.intake.take()]


def test_an_answer_leaves_as_figures() -> None:
    taking = Taking()
    usage = Usage(input_tokens=9, output_tokens=13, source=Provenance.PROVIDER)
    taking.intake.ended(attempt(status=200, usage=usage, first_token_ms=40.0, load=0.5), request(stream=True), reply())
    (seen,) = taking.taken()
    assert (seen.offer, seen.provider, seen.at, seen.ok, seen.status) == ("a/sim", "a", NOW, True, 200)
    assert (seen.latency_ms, seen.first_token_ms, seen.stream, seen.load) == (120.0, 40.0, True, 0.5)
    assert (seen.input_tokens, seen.output_tokens, seen.output_chars) == (9, 13, len(WORDS))
    assert (seen.finish_reason, seen.kind, seen.probe) == ("stop", Kind.CHAT, False)
    assert seen.sample is not None
    assert seen.sample.prompt != 0
    assert "harbour" not in repr(seen)


def test_a_failure_leaves_without_an_answer() -> None:
    taking = Taking()
    asked = request()
    taking.intake.ended(attempt(failure=FailureKind.SERVER_ERROR, status=500), asked, None)
    (seen,) = taking.taken()
    assert (seen.ok, seen.failure, seen.output_tokens, seen.output_chars) == (False, FailureKind.SERVER_ERROR, None, 0)
    assert (seen.input_tokens, seen.sample) == (asked.input_tokens_estimate, None)


def test_a_refused_prompt_is_known_again_by_a_hash_and_no_other_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    taking = Taking()
    for words in ("One town.", "One town.", "Another town."):
        taking.intake.ended(attempt(failure=FailureKind.BAD_REQUEST, status=400), request(words), None)
    taking.intake.ended(attempt(failure=FailureKind.SERVER_ERROR, status=500), request(), None)
    one, again, another, failed = (seen.prompt for seen in taking.taken())
    assert one == again != another
    assert 0 not in (one, another)
    assert failed == 0
    monkeypatch.setattr(intake, "MAX_WAITING_BYTES", 10)
    taking.intake.ended(attempt(failure=FailureKind.BAD_REQUEST, status=400), request(), None)
    (seen,) = taking.taken()
    assert (seen.failure, seen.prompt) == (FailureKind.BAD_REQUEST, 0)


def test_what_is_not_sampled_holds_no_text() -> None:
    taking = Taking(samples_per_s=0.0)
    taking.intake.ended(attempt(status=200), request("the password is swordfish"), reply())
    (left,) = taking.intake.take()
    assert "swordfish" not in repr(left)
    assert "harbour" not in repr(left)
    held = [getattr(left, name) for name in left.__struct_fields__]
    assert not any(isinstance(part, OpenAIRequest | Facts) for part in held)
    assert taking.intake.reduce(left).output_chars == len(WORDS)


def test_an_empty_answer_is_always_sampled() -> None:
    taking = Taking(samples_per_s=0.0)
    taking.intake.ended(attempt(status=200), request(), reply(""))
    (seen,) = taking.taken()
    assert seen.sample is not None
    assert seen.sample.empty


def test_what_waits_to_be_sampled_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_WAITING_BYTES", 10_000)
    taking = Taking()
    for words in ("x" * 4_000, "y" * 4_000, "z" * 4_000, "short"):
        taking.intake.ended(attempt(status=200), request(words), reply())
    assert [seen.sample is not None for seen in taking.taken()] == [True, True, False, True]
    taking.intake.ended(attempt(status=200), request("z" * 4_000), reply())
    assert [seen.sample is not None for seen in taking.taken()] == [True], "there is room again"
    assert taking.intake.dropped == 0


def test_what_finds_the_queue_full_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_WAITING", 3)
    taking = Taking()
    for _ in range(5):
        taking.intake.ended(attempt(status=200), request(), reply())
    assert (len(taking.taken()), taking.intake.dropped) == (3, 2)


def test_offers_that_are_gone_take_no_memory() -> None:
    taking = Taking(samples_per_s=1.0)
    for number in range(100):
        taking.intake.ended(attempt(f"a/{number}", status=200), request(), reply())
    taking.intake.keep({"a/7": "a"})
    assert taking.intake._attempts.keys() == taking.intake._samples.keys() == {"a/7"}


def test_of_several_workers_each_takes_in_its_share_a_second() -> None:
    taken = {}
    for workers in (1, 4):
        one = Intake(b"salt", lambda: NOW, 20.0, workers)
        for _ in range(300):
            one.ended(attempt(), request(), None)
        taken[workers] = len(one)
    assert taken == {1: 200, 4: 50}
