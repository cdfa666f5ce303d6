"""The compiled war-game: every request of some steps is routed, served or not, billed, and learned from.

Filter, scores and learning are the live router's (law 5). What is here is the world's side: what an attempt comes to,
and what a tenant has left to spend. No memory is allocated per request.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from amaru.compiling import compiled, inlined
from amaru.routing import belief_kernels as b
from amaru.routing import kernels as k
from amaru.routing import q_kernels as q
from amaru.routing import rank_kernels
from amaru.routing import score_kernels as s
from amaru.routing.kernels import Floats, Ints
from amaru.simulation import filter_kernels as f
from amaru.simulation import world_kernels as w

# Who plays: a kind of policy, or a reference that is told more.
ORACLE = 100
"""Knows the truth of the moment."""
INFORMED = 101
"""Knows what the world was drawn with, and infers the state it is in."""

# Columns of `totals` [tenants, N_TALLY] and of `by_step` [steps, N_TALLY].
REQUESTS, SERVED, COST_USD, LATENCY_MS, SLO_MET, UTILITY = range(6)
N_TALLY = 6

# Columns of `records` [requests, N_RECORD].
ROW, OK, REC_LATENCY_MS, REC_COST_USD, REC_UTILITY, EXPLORED, PROPENSITY, FEASIBLE = range(8)
N_RECORD = 8

LEAST_MAX_PRICE, MOST_MAX_PRICE = 0.1, 10.0
"""USD per GPU-hour: what is left of a budget bounds the price within these."""


class Arena(NamedTuple):
    """The offers of a world, and who asks."""

    static: Floats
    """[offers, N_STATIC]"""
    live: Floats
    """[slots, N_LIVE]"""
    pool_starts: Ints
    """[pools + 1]: the rows of a pool are ``pool_rows[pool_starts[i]:pool_starts[i + 1]]``."""
    pool_rows: Ints
    own_starts: Ints
    """[tenants · pools + 1] into ``own_rows``: those of a pool that could ever serve a tenant (kind and region)."""
    own_rows: Ints
    asks: Floats
    """[tenants, N_ASK] what all requests of a tenant ask alike."""
    weights: Floats
    """[tenants, 4] by which the policy scores."""
    worth: Floats
    """[tenants, 4] by which the tenant judges: the tenant's own."""
    slo_ms: Floats
    """[tenants] the latency that a served request should keep to."""
    budgets: Floats
    """[tenants] USD a step."""


class Brain(NamedTuple):
    """What the policy has learned; see ``routing.mind.Mind``."""

    slots: Ints
    groups: Ints
    sums: Floats
    beliefs: Floats
    values: Floats
    memory: Floats
    ring: Floats
    knobs: Floats


class Scratch(NamedTuple):
    """Written and read within one request."""

    ask: Floats
    table: Floats
    codes: Ints
    order: Ints
    excluded: Ints
    budgets: Floats
    best: Floats
    """[pools, 2] lowest posted price and latency of each pool of GPU offers; written per step."""


@inlined
def post(at: int, now: float, posted: Floats, static: Floats, live: Floats, is_gpu: bool) -> None:
    """Step ``at`` begins: what is posted is put up, all capacity is free, and what was observed fades."""
    for row in range(static.shape[0]):
        if is_gpu:
            static[row, k.PRICE_GPU_HOUR] = posted[at, row, w.PRICE]
        else:
            static[row, k.PRICE_IN] = posted[at, row, w.PRICE]
            static[row, k.PRICE_OUT] = posted[at, row, w.PRICE_OUT]
        static[row, k.ADVERTISED_MS] = posted[at, row, w.LATENCY_MS]
        static[row, k.CAPACITY] = posted[at, row, w.CAPACITY]
        static[row, k.REPUTATION] = posted[at, row, w.REPUTATION]
    for slot in range(live.shape[0]):
        live[slot, k.IN_FLIGHT] = 0.0
        for column in (k.FIRST_TOKEN, k.SUCCESS):
            live[slot, column + 1] = k.faded(live[slot, column + 1], live[slot, column + 2], now)
            live[slot, column + 2] = now


@compiled("void(float64[:, ::1], int64[::1], int64[::1], float64[:, ::1], int64[::1], int64[::1])")
def own_pools(
    static: Floats, pool_starts: Ints, pool_rows: Ints, asks: Floats, own_starts: Ints, own_rows: Ints
) -> None:
    """Write the ``own_starts`` and ``own_rows`` of an ``Arena``: regions never change, so they are held once."""
    n = pair = 0
    for t in range(asks.shape[0]):
        for pool in range(pool_starts.shape[0] - 1):
            own_starts[pair] = n
            pair += 1
            for j in range(pool_starts[pool], pool_starts[pool + 1]):
                if k.serves_region(static, pool_rows[j], asks[t, k.REGION]):
                    own_rows[n] = pool_rows[j]
                    n += 1
    own_starts[pair] = n


@inlined
def best_posted(arena: Arena, best: Floats) -> None:
    """The references (``score_kernels.references``) of every pool, for jobs: theirs do not depend on the request."""
    for pool in range(best.shape[0]):
        price = latency = math.inf
        for j in range(arena.pool_starts[pool], arena.pool_starts[pool + 1]):
            price = min(price, arena.static[arena.pool_rows[j], k.PRICE_GPU_HOUR])
            latency = min(latency, arena.static[arena.pool_rows[j], k.ADVERTISED_MS])
        best[pool, 0], best[pool, 1] = max(price, k.FLOOR), max(latency, k.FLOOR)


@inlined
def max_price(budget: float, gpu_hours: float) -> float:
    """The price that a tenant can still pay for a job."""
    return min(max(budget / gpu_hours, LEAST_MAX_PRICE), MOST_MAX_PRICE) if gpu_hours > 0.0 else math.inf


@inlined
def outcome(
    at: int, row: int, load: float, luck_success: float, luck_latency: float, truth: Floats
) -> tuple[bool, float]:
    """Whether an attempt succeeds, and the log of its latency in ms."""
    mean = truth[at, row, w.LOG_MS] + load * truth[at, row, w.LOAD_SLOPE]
    return bool(luck_success >= truth[at, row, w.FAILURE]), float(mean + truth[at, row, w.NOISE_SD] * luck_latency)


@inlined
def tell(at: int, now: float, posted: Floats, truth: Floats, slots: Ints, beliefs: Floats) -> None:
    """Put the truth in the place of beliefs."""
    for row in range(slots.shape[0]):
        slot = slots[row]
        beliefs[slot, b.AS_OF] = now
        beliefs[slot, b.SUCCESS] = 1.0 - truth[at, row, w.FAILURE]
        beliefs[slot, b.LOG_MS] = truth[at, row, w.LOG_MS] - math.log(posted[at, row, w.LATENCY_MS])
        beliefs[slot, b.LOG_MS_SLOPE] = truth[at, row, w.LOAD_SLOPE]
        beliefs[slot, b.LOG_MS_NOISE] = truth[at, row, w.NOISE_SD] ** 2
        beliefs[slot, b.LOG_PRICE] = truth[at, row, w.LOG_PRICE]


@inlined
def expect(step: int, stale: Floats, slots: Ints, beliefs: Floats, known: f.Filter) -> None:
    """A step begins for the reference that infers."""
    f.foresee(known)
    for bridge in range(known.joint.shape[0]):
        f.infer(bridge, step, stale, slots, beliefs, known)


@compiled()
def play(
    kind: int,
    learns: bool,
    floor: float,
    is_gpu: bool,
    first_step: int,
    step_s: float,
    posted: Floats,
    truth: Floats,
    starts: Ints,
    tenant: Ints,
    pool: Ints,
    sizes: Floats,
    luck: Floats,
    arena: Arena,
    brain: Brain,
    known: f.Filter,
    scratch: Scratch,
    totals: Floats,
    by_step: Floats,
    records: Floats,
) -> None:
    """Play some steps.

    Parameters
    ----------
    kind, learns
        Of policy, or a reference; whether it learns from what happens.
    floor
        Probability with which the choice is drawn uniformly among the feasible offers instead.
    posted .. luck
        See ``world.Chunk``.
    known
        Read and written by ``INFORMED`` only.
    totals, by_step, records
        Added to: [tenants, N_TALLY], [steps, N_TALLY]. Written: [requests, N_RECORD], or empty.
    """
    ask, table, codes, order = scratch.ask, scratch.table, scratch.codes, scratch.order
    # Named once: to take an array out of a tuple costs two atomic counts each time.
    excluded, best, left_usd = scratch.excluded, scratch.best, scratch.budgets
    asks, own_starts, own_rows, budgets = arena.asks, arena.own_starts, arena.own_rows, arena.budgets
    weights_of, worth_of, slo_ms, n_pools = arena.weights, arena.worth, arena.slo_ms, arena.pool_starts.shape[0] - 1
    slots, groups, sums, beliefs = brain.slots, brain.groups, brain.sums, brain.beliefs
    values, memory, ring, knobs = brain.values, brain.memory, brain.ring, brain.knobs
    static, live = arena.static, arena.live
    keeps = records.shape[0] > 0
    scores_as = s.THOMPSON if kind >= ORACLE else kind
    for at in range(posted.shape[0]):
        step = first_step + at
        now = step * step_s
        post(at, now, posted, static, live, is_gpu)
        stale = truth[at, :, w.LOG_STALE]
        if kind == ORACLE:
            tell(at, now, posted, truth, slots, beliefs)
        elif kind == INFORMED:
            expect(step, stale, slots, beliefs, known)
        for t in range(budgets.shape[0]):
            left_usd[t] = budgets[t]
        if is_gpu:
            best_posted(arena, best)
        last = -1
        for r in range(starts[at], starts[at + 1]):
            t = tenant[r]
            if t != last:
                for column in range(k.N_ASK):
                    ask[column] = asks[t, column]
                ask[k.NOW] = ask[k.WALL] = now
                last = t
            ask[k.GPU_HOURS] = sizes[r, w.GPU_HOURS]
            ask[k.INPUT_TOKENS] = sizes[r, w.INPUT_TOKENS]
            ask[k.OUTPUT_TOKENS] = sizes[r, w.OUTPUT_TOKENS]
            ask[k.LOT] = luck[r, w.LOT]
            if is_gpu:
                affordable = max_price(left_usd[t], sizes[r, w.GPU_HOURS])
                ask[k.MAX_PRICE] = min(affordable, asks[t, k.MAX_PRICE])
            pair = t * n_pools + pool[r]
            rows = own_rows[own_starts[pair] : own_starts[pair + 1]]
            weights = (weights_of[t, 0], weights_of[t, 1], weights_of[t, 2], weights_of[t, 3])
            feasible, _ = k.look(rows, static, live, ask, excluded, table, codes, order)
            if kind in (s.THOMPSON, s.HYBRID):
                for place in range(feasible):
                    row = rows[order[place]]
                    b.refresh(slots[row], groups[row], now, sums, beliefs, knobs)
            if is_gpu:
                best_price, best_latency = best[pool[r], 0], best[pool[r], 1]
            else:
                best_price, best_latency = s.references(rows.shape[0], table)
            s.score(
                scores_as, rows, feasible, weights, best_price, best_latency, ask[k.LOT], table, order,
                slots, beliefs, values, knobs,
            )  # fmt: skip
            i = rank_kernels.first_of(feasible, rows, ask[k.LOT], table, order)
            explored = False
            if floor > 0.0 and feasible > 0 and k.unit_of(k.lot_of(ask[k.LOT], -4)) < floor:
                i = order[int(k.unit_of(k.lot_of(ask[k.LOT], -5)) * feasible)]
                explored = True
            totals[t, REQUESTS] += 1.0
            by_step[at, REQUESTS] += 1.0
            if i < 0:
                if keeps:
                    for column in range(N_RECORD):
                        records[r, column] = 0.0
                    records[r, ROW] = -1.0
                continue
            row = rows[i]
            slot = int(static[row, k.SLOT])
            load = table[i, k.LOAD]
            ok, log_ms = outcome(at, row, load, luck[r, w.SUCCESS_LUCK], luck[r, w.LATENCY_LUCK], truth)
            live[slot, k.IN_FLIGHT] += sizes[r, w.GPU_HOURS] if is_gpu else 1.0
            k.blend(live, slot, k.SUCCESS, 1.0 if ok else 0.0, now)
            cost = gained = latency_ms = 0.0
            price_factor = math.exp(truth[at, row, w.LOG_PRICE])
            if ok:
                latency_ms = math.exp(log_ms)
                k.blend(live, slot, k.FIRST_TOKEN, latency_ms, now)
                cost = table[i, k.COST] * price_factor
                left_usd[t] -= cost
                worth = (worth_of[t, 0], worth_of[t, 1], worth_of[t, 2], worth_of[t, 3])
                gained = s.utility(
                    worth, best_price, best_latency, table[i, k.UNIT_PRICE] * price_factor, latency_ms,
                    table[i, k.TRUST],
                )  # fmt: skip
                totals[t, SERVED] += 1.0
                totals[t, COST_USD] += cost
                totals[t, LATENCY_MS] += latency_ms
                totals[t, UTILITY] += gained
                by_step[at, SERVED] += 1.0
                by_step[at, COST_USD] += cost
                by_step[at, LATENCY_MS] += latency_ms
                by_step[at, UTILITY] += gained
                if latency_ms <= slo_ms[t]:
                    totals[t, SLO_MET] += 1.0
                    by_step[at, SLO_MET] += 1.0
            if keeps:
                share = rank_kernels.share_of(scores_as, i, rows, codes, table, slots, beliefs, knobs)
                records[r, ROW] = row
                records[r, OK] = 1.0 if ok else 0.0
                records[r, REC_LATENCY_MS] = latency_ms
                records[r, REC_COST_USD] = cost
                records[r, REC_UTILITY] = gained
                records[r, EXPLORED] = 1.0 if explored or is_drawn(i, feasible, table, order) else 0.0
                records[r, PROPENSITY] = floor / feasible + (1.0 - floor) * share
                records[r, FEASIBLE] = feasible
            if kind == INFORMED:
                base = math.log(posted[at, row, w.LATENCY_MS])
                f.observe(row, ok, log_ms, base, load, known)
                if ok:
                    known.charged[row, f.LOG_PRICE] = truth[at, row, w.LOG_PRICE] + stale[row]
                    known.charged[row, f.AT_STEP] = step
                bridge = known.bridge_of[known.provider_of[row]]
                f.infer(bridge, step, stale, slots, beliefs, known)
            elif learns and kind == s.QLEARNING:
                quickness = best_latency / max(table[i, k.LATENCY], k.FLOOR)
                cheapness = best_price / max(table[i, k.UNIT_PRICE], k.FLOOR)
                state = q.state_of(q.preference_of(weights), quickness, cheapness, i, table)
                q.take_in(state, gained, ask[k.LOT], values, memory, ring, knobs)
            elif learns and kind in (s.THOMPSON, s.HYBRID):
                log_latency = log_ms - math.log(table[i, k.POSTED_MS])
                own, group = slots[row], groups[row]
                b.experience(
                    own, group, now, True, ok, load, log_latency, truth[at, row, w.LOG_PRICE], sums,
                    beliefs, knobs,
                )  # fmt: skip


@inlined
def is_drawn(i: int, feasible: int, table: Floats, order: Ints) -> bool:
    """Whether position ``i`` stands first by the draw only: without it, another would."""
    plain = table[i, k.SCORE] - table[i, k.DRAW]
    best = plain
    for place in range(feasible):
        best = max(best, table[order[place], k.SCORE] - table[order[place], k.DRAW])
    return bool(best > plain)
