"""``decisions.parquet``: some decisions of every episode, by the agent that was best when it began.

Of each episode so many are drawn, each request alike, whatever its length: memory and file are bounded. Until the
training ends they lie in parts, one per checkpoint, in ``decisions.parts/``.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from amaru.files.whole import put_whole
from amaru.simulation import world_kernels as w
from amaru.simulation.play import Played
from amaru.simulation.world import Chunk, World

if TYPE_CHECKING:
    import polars as pl

NAME = "decisions.parquet"
PARTS = "decisions.parts"
_SAMPLED = 3  # what the random numbers are for


class Row(msgspec.Struct, frozen=True, gc=False):
    """One sampled decision, and what came of it."""

    episode: int
    """From 1."""
    agent: int
    step: int
    """Of the world."""
    tenant: str
    resource: str
    gpu_hours: float
    input_tokens: float
    output_tokens: float
    offer: str | None
    """The chosen one; null, as everything that follows of it, where none was feasible."""
    provider: str | None
    posted_price_usd: float | None
    """As everyone saw it: USD per GPU-hour, or per million input tokens."""
    posted_latency_ms: float | None
    explored: bool
    """Drawn among all feasible offers."""
    propensity: float | None
    """Probability with which this offer was chosen."""
    ok: bool
    latency_ms: float | None
    """Null where it failed, as the cost."""
    cost_usd: float | None
    utility: float


class Sample:
    """Draws from one episode, as its chunks come."""

    def __init__(self, world: World, size: int, seed: int, episode: int, agent: int) -> None:
        self._world = world
        self._size = size
        self._rng = np.random.default_rng([seed, _SAMPLED, episode])
        self._episode = episode
        self._agent = agent
        self._keys = np.empty(0)
        self._rows: list[Row] = []

    def take(self, chunk: Chunk, played: Played) -> None:
        """Look at a chunk: every request draws a number, and the smallest stay (the same for any chunking)."""
        keys = np.concatenate([self._keys, self._rng.random(len(played.chosen))])
        stay = np.sort(np.argsort(keys, kind="stable")[: self._size])
        before = len(self._keys)
        kept = [self._rows[place] for place in stay[stay < before]]
        new = stay[stay >= before] - before
        steps = np.searchsorted(chunk.starts, new, side="right") - 1
        self._rows = kept + [self._row(chunk, played, int(at), int(step)) for at, step in zip(new, steps, strict=True)]
        self._keys = keys[stay]

    def rows(self) -> list[Row]:
        """What was drawn, in the requests' order."""
        return self._rows

    def _row(self, chunk: Chunk, played: Played, at: int, step: int) -> Row:
        world = self._world
        chosen = int(played.chosen[at])
        offer = None if chosen < 0 else world.offers[chosen]
        ok = bool(played.ok[at])
        gpu_hours, input_tokens, output_tokens = chunk.sizes[at].tolist()
        return Row(
            episode=self._episode,
            agent=self._agent,
            step=chunk.first_step + step,
            tenant=world.tenants[int(chunk.tenant[at])].id,
            resource=world.resources[int(chunk.pool[at])],
            gpu_hours=gpu_hours,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            offer=None if offer is None else offer.id,
            provider=None if offer is None else offer.provider,
            posted_price_usd=None if offer is None else float(chunk.posted[step, chosen, w.PRICE]),
            posted_latency_ms=None if offer is None else float(chunk.posted[step, chosen, w.LATENCY_MS]),
            explored=bool(played.explored[at]),
            propensity=None if offer is None else float(played.propensity[at]),
            ok=ok,
            latency_ms=float(played.latency_ms[at]) if ok else None,
            cost_usd=float(played.cost_usd[at]) if ok else None,
            utility=float(played.utility[at]),
        )


class DecisionLog:
    """The decisions so far: some in memory, the rest in parts on disk."""

    MOST_HELD = 50_000

    def __init__(self, directory: Path) -> None:
        self._parts = directory / PARTS
        self._final = directory / NAME
        self._held: list[Row] = []

    def add(self, rows: Sequence[Row]) -> bool:
        """Take in rows; returns whether they should be flushed by now."""
        self._held.extend(rows)
        return len(self._held) >= self.MOST_HELD

    def clear(self) -> None:
        """Drop an earlier training's."""
        shutil.rmtree(self._parts, ignore_errors=True)
        self._final.unlink(missing_ok=True)

    def take_over(self, directory: Path, episodes: int) -> None:
        """Begin with the decisions of the first ``episodes`` episodes of a training that wrote to ``directory``.

        Raises OSError, or polars' error where they cannot be read.
        """
        import polars as pl

        final, parts = directory / NAME, sorted((directory / PARTS).glob("part-*.parquet"))
        frames: list[pl.LazyFrame] = []
        reached = 0
        if final.exists():
            frames.append(pl.scan_parquet(final).filter(pl.col("episode") <= episodes))
            reached = int(pl.scan_parquet(final).select(pl.col("episode").max()).collect().item() or 0)
        # A crash may have left parts whose rows are in the whole file already.
        between = (pl.col("episode") > reached) & (pl.col("episode") <= episodes)
        frames += [pl.scan_parquet(part).filter(between) for part in parts]
        first = self._part(0)
        if frames:
            self._parts.mkdir(parents=True, exist_ok=True)
            put_whole(first, lambda draft: pl.concat(frames).sink_parquet(draft))
        for part in parts:
            if part != first and part.parent == self._parts:
                part.unlink()

    def flush(self, episode: int) -> None:
        """Write what is held to a part; ``episode`` is the last in it. Raises OSError."""
        if not self._held:
            return
        self._parts.mkdir(exist_ok=True)
        frame = frame_of(self._held)
        put_whole(self._part(episode), frame.write_parquet)
        self._held.clear()

    def finish(self, episode: int) -> None:
        """Put the parts together as ``decisions.parquet``. Raises OSError."""
        import polars as pl

        self.flush(episode)
        parts = sorted(self._parts.glob("part-*.parquet"))
        frames = [pl.scan_parquet(part) for part in parts] or [frame_of([]).lazy()]
        put_whole(self._final, lambda draft: pl.concat(frames).sink_parquet(draft))
        shutil.rmtree(self._parts, ignore_errors=True)

    def _part(self, episode: int) -> Path:
        return self._parts / f"part-{episode:09d}.parquet"


def frame_of(rows: Sequence[Row]) -> pl.DataFrame:
    """The rows as a table, in the columns of ``Row``."""
    import polars as pl

    schema = {
        "episode": pl.Int32,
        "agent": pl.Int32,
        "step": pl.Int32,
        "tenant": pl.String,
        "resource": pl.String,
        "gpu_hours": pl.Float64,
        "input_tokens": pl.Float64,
        "output_tokens": pl.Float64,
        "offer": pl.String,
        "provider": pl.String,
        "posted_price_usd": pl.Float64,
        "posted_latency_ms": pl.Float64,
        "explored": pl.Boolean,
        "propensity": pl.Float64,
        "ok": pl.Boolean,
        "latency_ms": pl.Float64,
        "cost_usd": pl.Float64,
        "utility": pl.Float64,
    }
    return pl.DataFrame([msgspec.structs.astuple(row) for row in rows], schema=schema, orient="row")
