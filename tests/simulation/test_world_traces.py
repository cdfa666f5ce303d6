"""Worlds whose requests come from a trace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from amaru.errors import TraceError
from amaru.simulation import world_kernels as w
from amaru.simulation.scenario import Scenario
from amaru.simulation.scenario_files import load_scenario
from amaru.simulation.traces import TraceRequest, bundled_trace, open_trace, write_amaru
from amaru.simulation.world import World


def scenario_of(path: Path | None, *, step_s: float = 10.0, speed: float = 1.0) -> Scenario:
    scenario = load_scenario("chat-azure-v1")
    assert scenario.trace is not None
    trace = msgspec.structs.replace(scenario.trace, path=None if path is None else str(path), speed=speed)
    return msgspec.structs.replace(scenario, trace=trace, step_s=step_s)


def written(path: Path, times: Sequence[float]) -> Path:
    with path.open("w") as out:
        write_amaru(out, [TraceRequest(at, 100 + i, 10 + i) for i, at in enumerate(times)])
    return path


@settings(max_examples=40, deadline=None)
@given(
    gaps=st.lists(st.floats(0.0, 30.0).map(lambda gap: round(gap, 3)), min_size=1, max_size=12),
    step_s=st.sampled_from([1.0, 7.5, 30.0]),
    speed=st.sampled_from([0.5, 1.0, 3.0]),
    cut=st.integers(1, 19),
)
def test_a_traces_requests_come_in_order_at_its_speed_round_after_round(
    gaps: list[float], step_s: float, speed: float, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    times = np.round(np.cumsum([0.0, *gaps]), 3)
    # A round lasts as long as its requests, and then the mean time between two of them.
    mean_gap = max(times[-1] / len(times), 1e-3)
    span = step_s * speed
    rounds = int(20 * span / (times[-1] + mean_gap)) + 2
    assume(rounds * len(times) <= 20_000)
    path = written(tmp_path_factory.mktemp("trace") / "trace.jsonl", times.tolist())
    world = World(scenario_of(path, step_s=step_s, speed=speed), 1)
    begun, rest = world.chunk(cut), world.chunk(20 - cut)
    counts = np.concatenate([np.diff(begun.starts), np.diff(rest.starts)])
    sizes = np.concatenate([begun.sizes, rest.sizes])
    at = np.concatenate([times + i * (times[-1] + mean_gap) for i in range(rounds)])
    # The boundaries themselves may round either way.
    early = [int((at < (step + 1) * span - 1e-6).sum()) for step in range(20)]
    late = [int((at < (step + 1) * span + 1e-6).sum()) for step in range(20)]
    total = np.cumsum(counts)
    assert (early <= total).all()
    assert (total <= late).all()
    place = np.arange(len(sizes)) % len(times)
    np.testing.assert_array_equal(sizes[:, w.INPUT_TOKENS], 100 + place)
    np.testing.assert_array_equal(sizes[:, w.OUTPUT_TOKENS], 10 + place)
    assert not sizes[:, w.GPU_HOURS].any()


def test_the_bundled_trace_is_played_as_it_stands() -> None:
    scenario = load_scenario("chat-azure-v1")
    steps = 12
    chunk = World(scenario, 3).chunk(steps)
    rows = [r for r in open_trace(bundled_trace()).requests if r.at_s < steps * scenario.step_s]
    assert chunk.sizes[:, w.INPUT_TOKENS].tolist() == [r.input_tokens for r in rows]
    assert chunk.sizes[:, w.OUTPUT_TOKENS].tolist() == [r.output_tokens for r in rows]
    counts = np.histogram([r.at_s for r in rows], bins=np.arange(steps + 1) * scenario.step_s)[0]
    assert np.diff(chunk.starts).tolist() == counts.tolist()


def test_requests_belong_to_tenants_by_their_share() -> None:
    scenario = load_scenario("chat-azure-v1")
    assert scenario.trace is not None
    world = World(scenario, 3)
    tenant = world.chunk(100).tenant
    shares = [scenario.trace.share[t.id] for t in world.tenants]
    seen = np.bincount(tenant, minlength=len(shares)) / len(tenant)
    np.testing.assert_allclose(seen, shares, atol=4.5 * 0.5 / np.sqrt(len(tenant)))


def test_seeds_differ_in_who_asks_but_not_in_what(tmp_path: Path) -> None:
    path = written(tmp_path / "trace.jsonl", [0.5 * i for i in range(50)])
    a, b = (World(scenario_of(path), seed).chunk(30) for seed in (1, 2))
    np.testing.assert_array_equal(a.sizes, b.sizes)
    np.testing.assert_array_equal(a.starts, b.starts)
    assert not np.array_equal(a.tenant, b.tenant)


def test_a_trace_without_requests_or_with_a_wrong_row_is_refused_with_its_path(tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    with pytest.raises(TraceError, match=r"empty\.csv"):
        World(scenario_of(empty), 0).chunk(1)
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text(written(wrong, [0.0, 1.0]).read_text() + '{"at_s": 2, "input_tokens": -5, "output_tokens": 1}\n')
    with pytest.raises(TraceError, match=r"wrong\.jsonl"):
        World(scenario_of(wrong), 0).chunk(1)
