"""Prompts of a trace's requests: their length, what they share, and that a cache of prefixes notices."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.accounts.tokens import estimate_tokens
from amaru.readiness.caller import Caller, Habits
from amaru.readiness.player import Lane, play
from amaru.readiness.prompts import Prompts
from amaru.simulation import SimulatedProvider
from amaru.simulation.text import count_tokens
from amaru.simulation.traces import TraceRequest, open_trace

MOONCAKE = Path(__file__).parents[3] / "shared" / "data" / "mooncake" / "conversation_trace.jsonl"
PROMPTS = Prompts(seed=1)


def request(tokens: int, *blocks: int | str, block_tokens: int = 512) -> TraceRequest:
    return TraceRequest(0.0, tokens, 1, blocks, block_tokens)


@given(st.integers(0, 20_000), st.integers(1, 3000), st.lists(st.integers(), max_size=5))
def test_a_prompt_has_exactly_its_tokens(tokens: int, block_tokens: int, blocks: list[int]) -> None:
    fitting = blocks[: -(-tokens // block_tokens)]
    prompt = PROMPTS.for_request(request(tokens, *fitting, block_tokens=block_tokens))
    assert count_tokens(prompt) == max(1, tokens)
    assert prompt == prompt.strip()


def test_a_token_takes_four_characters() -> None:
    prompt = PROMPTS.for_request(request(10_000))
    assert len(prompt) == pytest.approx(40_000, rel=0.02)
    assert estimate_tokens(prompt) == pytest.approx(10_000, rel=0.02)


def test_a_block_larger_than_all_text_there_is() -> None:
    assert count_tokens(PROMPTS.for_request(request(700_000, 1, block_tokens=700_000))) == 700_000


@given(st.lists(st.integers(), min_size=1, max_size=8), st.integers(0, 8), st.data())
def test_prompts_share_what_their_blocks_share_and_no_more(blocks: list[int], shared: int, data: st.DataObject) -> None:
    shared = min(shared, len(blocks))
    other = [*blocks[:shared], *(("other", place) for place in range(3))]
    one = PROMPTS.for_request(request(512 * len(blocks), *blocks))
    two = PROMPTS.for_request(request(512 * len(other), *map(str, other)))
    common = next(
        (place for place, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two))
    )
    start = len(PROMPTS.for_request(request(512 * shared, *blocks[:shared]))) if shared else 0
    assert start <= common
    # By chance a few words more.
    assert shared == len(blocks) or common < start + 40


def test_a_block_that_is_cut_begins_like_the_whole_one() -> None:
    whole, cut = PROMPTS.for_request(request(1024, 7, 8)), PROMPTS.for_request(request(900, 7, 8))
    assert whole.startswith(cut)
    longer = PROMPTS.for_request(request(1500, 7, 8))  # text of its own behind the blocks
    assert longer.startswith(whole)


def test_what_has_no_block_is_like_nothing_else() -> None:
    beginnings = {" ".join(PROMPTS.for_request(request(300)).split()[:8]) for _ in range(20_000)}
    assert len(beginnings) == 20_000


def test_the_seed_decides() -> None:
    made = [Prompts(seed) for seed in (5, 5, 6)]
    named = [prompts.for_request(request(600, "a", "b")) for prompts in made]
    unnamed = [prompts.for_request(request(600)) for prompts in made]
    assert named[0] == named[1] != named[2]
    assert unnamed[0] == unnamed[1] != unnamed[2]


async def cached_tokens(requests: list[TraceRequest]) -> tuple[int, int]:
    """Play ``requests`` one after the other; returns the prompt tokens on the bill, and the cached of them."""
    async with SimulatedProvider() as provider:
        lane = Lane("a", Caller(provider.base_url, "sim-model", habits=Habits(max_retries=0)))
        await play(requests, [lane], speed=1, seed=1, stop=asyncio.Event())
        await lane.caller.aclose()
        assert all(sample.ok for sample in lane.samples), lane.samples
        total = provider.bill.total
        return total.input_tokens, total.cached_input_tokens


async def test_shared_blocks_hit_the_providers_cache() -> None:
    sent, cached = await cached_tokens([request(2048, 1, 2, 3, 4), request(2000, 1, 2, 3, 9), request(900, 5, 6)])
    assert sent == 2048 + 2000 + 900
    assert cached == pytest.approx(3 * 512, abs=128)  # providers count in steps of 128 tokens


async def test_without_blocks_nothing_is_cached() -> None:
    assert await cached_tokens([request(2000) for _ in range(20)]) == (40_000, 0)


@pytest.mark.skipif(not MOONCAKE.is_file(), reason="the Mooncake trace (../shared/data/mooncake) is not here")
async def test_the_first_of_the_mooncake_trace_hit_as_their_hashes_say() -> None:
    requests = [
        TraceRequest(0.0, one.input_tokens, 1, one.blocks)
        for one in (row for row, _ in zip(open_trace(MOONCAKE).requests, range(60), strict=False))
    ]
    seen: set[tuple[int | str, ...]] = set()
    expected = hits = 0
    for one in requests:
        prefixes = [one.blocks[:place] for place in range(1, len(one.blocks) + 1)]
        known = sum(prefix in seen for prefix in prefixes)
        expected += 512 * known
        hits += known > 0
        seen.update(prefixes)
    sent, cached = await cached_tokens(requests)
    assert sent == sum(one.input_tokens for one in requests)
    # The simulator rounds each hit down, to blocks of 512 characters and then to 128 tokens.
    assert expected - hits * 256 < cached <= expected
    assert hits > 50
