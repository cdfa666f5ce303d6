"""Samples of what simulated providers answer over sockets: in order, and with each edit that they can make."""

from __future__ import annotations

import httpx
import pytest

from amaru.domain import Kind
from amaru.health.observation import Sample
from amaru.health.sample import hash_of, sample_of
from amaru.simulation import Fault, SimulatedProvider

SALT = b"of this test"


async def ask(provider: SimulatedProvider, prompt: str, *, stream: bool, kind: Kind = Kind.CHAT) -> Sample:
    """What one answer looks like."""
    path, asked = {
        Kind.CHAT: ("chat/completions", {"messages": [{"role": "user", "content": prompt}]}),
        Kind.COMPLETION: ("completions", {"prompt": prompt}),
        Kind.EMBEDDING: ("embeddings", {"input": prompt}),
    }[kind]
    asked["model"] = "sim-embed" if kind is Kind.EMBEDDING else "sim-model"
    more = {} if kind is Kind.EMBEDDING else {"stream": stream, "max_tokens": 60, "ignore_eos": True}
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"{provider.base_url}/{path}", json={**asked, **more})
    assert answer.status_code == 200
    return sample_of(kind, answer.content, None, SALT, hash_of(prompt, SALT), stream=stream)


@pytest.mark.parametrize(
    ("kind", "stream"),
    [(Kind.CHAT, False), (Kind.CHAT, True), (Kind.COMPLETION, False), (Kind.COMPLETION, True), (Kind.EMBEDDING, False)],
)
async def test_answers_in_order_lack_nothing_and_share_one_shape(kind: Kind, stream: bool) -> None:
    async with SimulatedProvider() as provider:
        one, two = [await ask(provider, prompt, stream=stream, kind=kind) for prompt in ("Hi", "Hello again")]
    assert one.missing == two.missing == ()
    assert one.shape == two.shape != 0
    assert not one.empty
    assert one.prompt != two.prompt
    assert max(one.repetition, two.repetition) < 0.1
    assert (one.digest != two.digest) == (kind is not Kind.EMBEDDING)


@pytest.mark.parametrize("stream", [False, True])
async def test_each_edit_of_an_answer_shows(stream: bool) -> None:
    field = "choices[].delta.content" if stream else "choices[].message.content"

    async def edited(kind: str, **more: object) -> Sample:
        async with SimulatedProvider(faults=[Fault(kind=kind, **more)]) as provider:
            return await ask(provider, "Hi", stream=stream)

    async with SimulatedProvider() as provider:
        usual = await ask(provider, "Hi", stream=stream)
    for kind in ("renamed_field", "null_field", "missing_field"):
        sample = await edited(kind)
        assert sample.shape != usual.shape, kind
        assert sample.missing == (field,), kind
        assert sample.empty, kind
    assert (await edited("empty_text")).empty
    assert (await edited("repeated_text")).repetition > 0.6
