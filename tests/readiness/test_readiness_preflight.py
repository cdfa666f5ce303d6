"""What is found out about a target before anything is played, and what is said of one that cannot be used."""

from typing import Any

import pytest
from plain_target import PlainTarget, plain_target, refuses_field

from amaru.readiness.caller import Habits
from amaru.readiness.preflight import TRIAL_TOKENS, Target, TargetError, base_url_of, look_at
from amaru.simulation import Fault, ProviderProfile, SimulatedProvider

HABITS = Habits(max_retries=0, patience_s=2)


async def looked(target: PlainTarget | SimulatedProvider, **fields: Any) -> Target:
    settings: dict[str, Any] = {"model": None, "key": None, "habits": HABITS, "exact": None}
    return await look_at(target.url, **{**settings, **fields})


async def refused(target: PlainTarget | SimulatedProvider, **fields: Any) -> str:
    with pytest.raises(TargetError) as caught:
        await looked(target, **fields)
    return str(caught.value)


@pytest.mark.parametrize(
    ("target", "base_url"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1"),
        ("https://example.com/openai/v1/", "https://example.com/openai/v1"),
        ("https://example.com/v1/chat/completions", "https://example.com/v1"),
    ],
)
def test_the_base_url_of_a_target(target: str, base_url: str) -> None:
    assert base_url_of(target) == base_url


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("127.0.0.1:8080", "it looks like http://127.0.0.1:8080/v1"),
        ("ftp://example.com", "is not http(s)://"),
        ("http://me:sk-secret@example.com", "name the key's variable with --key-env"),
        ("http://example.com/v1?key=sk-secret", "has no query"),
    ],
)
def test_a_target_that_is_no_base_url(target: str, words: str) -> None:
    with pytest.raises(TargetError, match="--target: ") as caught:
        base_url_of(target)
    assert words in str(caught.value)


async def test_a_target_with_one_model_that_takes_everything() -> None:
    async with SimulatedProvider(ProviderProfile(embedding_models=()), keep_received=5) as provider:
        target = await looked(provider)
        assert provider.requests == 1
    assert target == Target(provider.base_url, "sim-model", target.habits, 1, ())
    assert target.habits.exact_lengths
    assert target.habits.max_retries == 0


async def test_which_model_is_meant() -> None:
    async with plain_target(models=("a", "b")) as target:
        assert (await looked(target, model="b")).model == "b"
        assert (await looked(target, model="not-listed")).model == "not-listed"  # a wildcard, an alias: it answers
        assert "lists 2 models; name one with --model: a, b" in await refused(target)
    async with plain_target(models=[str(place) for place in range(40)]) as target:
        assert await refused(target)
        assert "10, 11 and 28 more" in await refused(target)
    async with plain_target(models=()) as target:
        assert "lists no model: name one with --model" in await refused(target)


async def test_a_target_without_a_list_of_models() -> None:
    async with plain_target(models=None) as target:
        words = await refused(target)
        assert '/models answers with 404: {"error": {"message": "not here"}}: name the model with --model' in words
        found = await looked(target, model="m")
        assert found.notes[0].startswith(f"GET {target.url}/v1/models answers with 404: ")


async def test_a_model_that_is_not_there_is_told_once_with_those_that_are() -> None:
    async with SimulatedProvider() as provider:
        words = await refused(provider, model="nope")
    assert "does not serve chats with the model 'nope' (404: " in words
    assert "it lists sim-model, sim-embed; name one with --model" in words


@pytest.mark.parametrize("status", [400, 422])
async def test_a_target_that_refuses_unknown_fields_is_asked_without(status: int) -> None:
    async with plain_target(refuses=refuses_field("ignore_eos", status=status)) as target:
        found = await looked(target)
        assert not found.habits.exact_lengths
        assert found.habits.stream_usage
        assert found.trials == 2
        assert "refuses ignore_eos" in found.notes[0]
        assert "ignore_eos" not in target.asked[-1]


async def test_a_target_that_wants_the_newer_limit() -> None:
    async with plain_target(refuses=refuses_field("ignore_eos", "max_tokens")) as target:
        found = await looked(target)
        assert found.habits.limit_field == "max_completion_tokens"
        assert target.asked[-1]["max_completion_tokens"] == TRIAL_TOKENS


async def test_a_target_without_stream_options() -> None:
    async with plain_target(refuses=refuses_field("ignore_eos", "stream_options")) as target:
        found = await looked(target)
        assert not found.habits.stream_usage
        assert "tokens are counted here" in found.notes[-1]


async def test_what_the_user_says_of_lengths_holds() -> None:
    async with plain_target(refuses=refuses_field("ignore_eos")) as target:
        assert "refuses a short request" in await refused(target, exact=True)
        assert all(body["ignore_eos"] for body in target.asked)
        target.asked.clear()
        assert not (await looked(target, exact=False)).notes
        assert len(target.asked) == 1


async def test_answers_that_are_not_streamed_are_tried_so() -> None:
    async with plain_target(refuses=refuses_field("stream", "stream_options", "ignore_eos")) as target:
        found = await looked(target, habits=Habits(stream=False))
        assert not found.habits.stream
        assert not found.habits.exact_lengths


async def test_a_target_that_refuses_everything_is_told_in_its_own_words() -> None:
    async with plain_target(refuses=lambda body: (400, {"error": {"message": "only on Sundays"}})) as target:
        assert "only on Sundays" in await refused(target)


async def test_keys() -> None:
    async with plain_target(key="sk-right") as target:
        assert (await looked(target, key="sk-right")).model == "m"
        assert "wants a key" in await refused(target)
        words = await refused(target, key="sk-wrong")
    assert "refuses the key (401: " in words
    assert "check what the variable of --key-env holds" in words
    assert "sk-wrong" not in words


async def test_a_key_that_no_header_can_hold() -> None:
    async with plain_target() as target:
        words = await refused(target, key="sk-\nsecret")
    assert "the key cannot be sent" in words
    assert "secret" not in words


@pytest.mark.parametrize(
    "fault", [Fault(kind="status", status=503), Fault(kind="cut"), Fault(kind="status", status=429)]
)
async def test_failures_that_may_pass_are_noted_and_played(fault: Fault) -> None:
    async with SimulatedProvider(ProviderProfile(embedding_models=()), faults=[fault]) as provider:
        found = await looked(provider)
    assert "the trial request failed (" in found.notes[0]
    assert found.habits.exact_lengths


async def test_a_target_that_is_not_there() -> None:
    async with SimulatedProvider() as provider:
        url = provider.url
    with pytest.raises(TargetError, match=r"cannot be reached: .* refused the connection; is it running"):
        await look_at(url, model="m", key=None, habits=HABITS, exact=None)
