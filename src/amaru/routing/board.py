"""The board: every offer as one row of numbers, and the places at each of them.

A board is built from a configuration and never changes its offers; a reload builds another that carries on the live
state (``carry``). All instants are seconds of one non-decreasing clock handed in by the caller.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import numpy as np

from amaru.domain import GLOBAL_REGION, Capability, Kind, Offer
from amaru.errors import Failure
from amaru.routing import kernels as k
from amaru.routing.breaker import BreakerSettings, State
from amaru.routing.limits import BURST_S, interval_s
from amaru.routing.live import Admission, LiveState, Slab
from amaru.routing.patience import PatienceSettings
from amaru.routing.steering import Steering

KIND_BITS: dict[Kind, int] = {kind: 1 << place for place, kind in enumerate(Kind)}
LEAST_SUCCESS = 0.2
"""An offer that serves a smaller share of recent attempts is no last resort either."""
MAX_REGIONS = 52
"""Regions are bits of a float64 column, which holds integers exactly up to 2**53."""


class OfferHealth(msgspec.Struct, frozen=True):
    """What is known of an offer now, for people and metrics."""

    offer: str
    state: str
    """Of its breaker: ``closed``, ``open`` or ``half_open``."""
    broken: bool
    """Open for a cause that a person must fix."""
    in_flight: float
    """Requests, or GPU-hours for GPU work."""
    free_in_s: float | None
    """Seconds until breaker, throttle and request limit let a request in; 0: now; ``None``: when the probe is back."""
    first_token_ms: float
    """Expected: advertised, blended with observations."""
    answer_ms: float | None
    """Mean time of recent whole answers; ``None``: none seen."""
    success: float
    """Share of recent attempts that succeeded, 1 where none were seen."""
    continues: bool
    """It can go on from a broken answer (``Capability.PREFILL``), and has not refused to."""
    first_token_limit_ms: float
    """Longest wait for a stream's first token while another offer could take over, for prompts of the size answered
    last."""
    idle_limit_ms: float
    """Longest silence inside a stream while another offer could take over."""


class Board:
    """The offers of one configuration.

    Parameters
    ----------
    offers
        Their ids must be unique.
    aliases
        Name → resources or offer ids. An alias hides a resource of the same name.
    breaker
        Settings of every offer's breaker.
    patience
        Bounds of the adaptive limits, by provider; left out: the defaults.
    carry
        The board before: offers whose id and provider remain keep their live state. An offer that was broken until
        fixed is tried again, since reloading is how an operator says that it is fixed; so is one that refused to
        continue a message.
    slab, rng
        Where the live state lies, if there is no board before; jitters cool-downs.

    Raises
    ------
    ValueError
        Duplicate offer ids, an alias member that names nothing, more than 52 regions, a rate limit that is not > 0.
    """

    def __init__(
        self,
        offers: Sequence[Offer],
        aliases: Mapping[str, Sequence[str]],
        *,
        breaker: BreakerSettings | None = None,
        patience: Mapping[str, PatienceSettings] | None = None,
        carry: Board | None = None,
        slab: Slab | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.offers: tuple[Offer, ...] = tuple(offers)
        self.row_of: dict[str, int] = {offer.id: row for row, offer in enumerate(self.offers)}
        if len(self.row_of) != len(self.offers):
            twice = sorted({offer.id for row, offer in enumerate(self.offers) if self.row_of[offer.id] != row})
            raise ValueError(f"offer ids must be unique; given twice: {', '.join(twice)}")
        self.rows_of_provider: dict[str, tuple[int, ...]] = _group(
            (offer.provider, row) for row, offer in enumerate(self.offers)
        )
        self._pools = _pools(self.offers, self.row_of, aliases)
        self._region_bits = _region_bits(self.offers)
        self.version: str = hashlib.blake2b(msgspec.msgpack.encode(self.offers), digest_size=8).hexdigest()
        """Digest of the offers; stored with decisions, so that an explanation is rebuilt from the same ones."""

        settings = breaker or BreakerSettings()
        rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self.slab: Slab = carry.slab if carry is not None else slab or Slab()
        bounds = [(patience or {}).get(offer.provider) or PatienceSettings() for offer in self.offers]
        self._can_continue = [Capability.PREFILL in offer.capabilities for offer in self.offers]
        self._adaptive = [bound.adaptive for bound in bounds]
        self.states = [
            _carried(offer, carry, settings, bound) or self.slab.state(offer, settings, rng, bound)
            for offer, bound in zip(self.offers, bounds, strict=True)
        ]
        self.static: k.Floats = np.zeros((len(self.offers), k.N_STATIC))
        for row, offer in enumerate(self.offers):
            self.static[row] = self._static_row(offer, self.states[row].slot)
        self._static_rows: list[list[float]] = self.static.tolist()

    @property
    def live(self) -> k.Floats:
        """float64 [slots, N_LIVE]; ``static[:, SLOT]`` says which row is whose. Fetch it anew for every decision."""
        return self.slab.values

    @property
    def changed(self) -> set[Callable[[], None]]:
        """Called whenever a place becomes free or a breaker changes: add yours to wait, remove it when done."""
        return self.slab.changed

    def pool(self, resource: str) -> k.Ints | None:
        """Rows of all offers of a resource, or of an alias's members; None where the name is unknown."""
        return self._pools.get(resource)

    def rows_of(self, names: Iterable[str]) -> set[int]:
        """Rows of all offers that stand behind any of these resources and aliases; unknown names have none."""
        return {int(row) for name in names for row in self._pools.get(name, ())}

    def resources(self) -> list[str]:
        """Names that can be asked for: resources and aliases, sorted."""
        return sorted(self._pools)

    def region_bits(self, regions: Iterable[str]) -> int:
        """The regions as a bit set; ``global`` and regions that no offer names have no bit."""
        bits = 0
        for region in regions:
            bits |= self._region_bits.get(region, 0)
        return bits

    def admit(
        self,
        row: int,
        tokens: float,
        now_s: float,
        *,
        gpu_hours: float = 0.0,
        again: bool = False,
        last_resort: bool = False,
    ) -> Admission | None:
        """Take a place right before an attempt; None where the offer is no longer free.

        Asks breaker (half-open lets exactly one probe through), throttle, capacity and rate limits. ``tokens`` are the
        workload's estimated input and output. ``again``: a retry of the same offer that has waited as ``reactions``
        says passes the throttle that its own first attempt set. ``last_resort`` passes the breaker, but is no probe.
        """
        state = self.states[row]
        return state.admit(self._static_rows[row], row, tokens, gpu_hours, now_s, again=again, last_resort=last_resort)

    def release(self, admission: Admission) -> None:
        """Give the place back, once per admission in every case; more often does no harm.

        Without an ``observe`` before (a caller that went away), a half-open probe is given up and the next may come.
        """
        admission.state.release(admission)

    def answering(self, admission: Admission, now_s: float) -> None:
        """A stream's first content has come: where the request was a probe, that proves the offer well.

        A long answer would keep others waiting for it. An offer that fell by breaking its streams has to end one.
        """
        admission.state.answering(admission, now_s)

    def observe(
        self,
        where: Admission | int,
        now_s: float,
        failure: Failure | None,
        first_token_ms: float | None = None,
        latency_ms: float | None = None,
        stream: bool = False,
        *,
        tokens_used: float | None = None,
        input_tokens: int = 0,
        longest_gap_ms: float | None = None,
    ) -> None:
        """Take in an outcome: averages, breaker, throttle, adaptive limits.

        ``where`` is an admission, or a row for a request that amaru did not make itself. Latencies of failures are not
        taken. For GPU work the latency is the time until the job is accepted. ``tokens_used`` corrects the token limit
        where the admission had reserved an estimate. ``input_tokens`` are those that ``limits_s`` was asked with;
        ``longest_gap_ms`` is the longest silence of a stream, with its last one where it stalled.
        """
        row = where if isinstance(where, int) else where.row
        if first_token_ms is None and Kind.GPU_JOB in self.offers[row].kinds:
            first_token_ms = latency_ms
        if isinstance(where, int):
            self.states[where].observe(None, now_s, failure, first_token_ms, latency_ms, stream)
            return
        where.state.observe(where, now_s, failure, first_token_ms, latency_ms, stream, input_tokens, longest_gap_ms)
        if tokens_used is not None:
            where.state.settle(where.tokens, tokens_used, self._static_rows[where.row][k.TOKEN_INTERVAL_S])
            where.tokens = tokens_used

    def load(self, row: int) -> float:
        """Share of the offer's capacity that is taken now, 0 to 1; 0 where the capacity has no bound."""
        capacity = self._static_rows[row][k.CAPACITY]
        return min(self.in_flight(row) / capacity, 1.0) if capacity > 0.0 else 1.0

    def in_flight(self, row: int) -> float:
        """Requests under way at the offer, or GPU-hours."""
        return self.slab.cells[self.states[row].base + k.IN_FLIGHT]

    def may_retry(self, row: int, now_s: float) -> bool:
        """Take one second request at the offer from the budget that it is steered by; False where that is spent."""
        retries = self.states[row].retries
        return retries is None or retries.try_retry(now_s)

    def kept_away(self, row: int) -> bool:
        """Whether its breaker keeps requests away, but for probes."""
        return self.states[row].breaker.state is not State.CLOSED

    def recoveries(self, row: int) -> int:
        """How often a probe has found it well after it had been given up on: what was foreseen came and went."""
        return self.states[row].recoveries

    def probe_due(self, row: int, now_s: float) -> bool:
        """Whether the offer was given up on and a cool-down has passed since: let the next request try it first.

        Its breaker is open and would let a probe through; or its last attempt failed, and nobody has asked it since; or
        whoever steers it wants it looked at.
        """
        state = self.states[row]
        return state.breaker.due_at <= now_s or state.look_due(now_s)

    def last_resorts(self, rows: Iterable[int], now_s: float) -> list[int]:
        """Those of ``rows``, all kept away by their breakers, that still serve some requests; the best first.

        Where every offer fails often, the one that fails least is better than none (Envoy calls it a panic threshold).
        One that fails always drops out after a few tries.
        """
        success = {row: self._success(row, now_s) for row in rows}
        return sorted((row for row in success if success[row] >= LEAST_SUCCESS), key=lambda row: -success[row])

    def _success(self, row: int, now_s: float) -> float:
        success, weight = self.states[row].estimate(k.SUCCESS, now_s)
        return 1.0 - weight * (1.0 - success)

    def can_continue(self, row: int) -> bool:
        """Whether the offer can go on from a broken answer: it has the capability, and has not refused to."""
        return self._can_continue[row] and not self.states[row].prefill_refused

    def prefill_refused(self, row: int) -> None:
        """Remember, until the next reload, that the offer would not continue an assistant message."""
        self.states[row].prefill_refused = True

    def steer(self, row: int, steering: Steering) -> Steering:
        """Steer the offer so from the next decision on, on every board that knows it; the steering before."""
        return self.states[row].steer(steering)

    def steering(self, row: int) -> Steering:
        """How the offer is steered now."""
        return self.states[row].steering

    def limits_s(self, row: int, input_tokens: int, now_s: float) -> tuple[float, float]:
        """Longest wait for a stream's first token, and longest silence inside it, while another offer could take over.

        The first grows with the prompt. Neither exceeds the configured limit, and without adaptive limits they are it.
        """
        return self.states[row].limits_s(self._adaptive[row], input_tokens, now_s)

    def soonest_return_s(self, rows: Iterable[int], now_s: float, tokens: float = 0.0) -> float | None:
        """Seconds until the first of ``rows`` lets a request of ``tokens`` in by itself; 0: now.

        None where time alone frees none of them: a probe is under way, all places are taken (wait for ``changed``), or
        a person must act.
        """
        soonest = min((self._free_at(row, tokens) for row in rows), default=math.inf)
        return max(soonest - now_s, 0.0) if soonest < math.inf else None

    def larger_window(self, row: int, than: int) -> bool:
        """Whether the offer ``row`` takes longer contexts than the offer ``than`` (unknown: without bounds)."""
        return self._static_rows[row][k.CONTEXT_WINDOW] > self._static_rows[than][k.CONTEXT_WINDOW]

    def health(self, row: int, now_s: float) -> OfferHealth:
        """What is known of the offer now."""
        state = self.states[row]
        free_at = self._free_at(row, 0.0, broken_too=True)
        first_token_ms, first_token_weight = state.estimate(k.FIRST_TOKEN, now_s)
        answer_ms, answer_weight = state.estimate(k.ANSWER, now_s)
        advertised_ms = self.offers[row].latency_ms
        first_token_limit_s, idle_limit_s = self.limits_s(row, state.first_token.usual_tokens, now_s)
        return OfferHealth(
            offer=self.offers[row].id,
            state=state.breaker.state.value,
            broken=state.breaker.broken,
            in_flight=self.in_flight(row),
            free_in_s=max(free_at - now_s, 0.0) if free_at < math.inf else None,
            first_token_ms=advertised_ms + first_token_weight * (first_token_ms - advertised_ms),
            answer_ms=answer_ms if answer_weight > 0.0 else None,
            success=self._success(row, now_s),
            continues=self.can_continue(row),
            first_token_limit_ms=first_token_limit_s * 1e3,
            idle_limit_ms=idle_limit_s * 1e3,
        )

    def _free_at(self, row: int, tokens: float, *, broken_too: bool = False) -> float:
        """Instant from which time alone lets a request in; +inf where something else must happen first."""
        state = self.states[row]
        offer, cells, base = self._static_rows[row], self.slab.cells, state.base
        full = cells[base + k.IN_FLIGHT] >= min(state.most_at_once(offer), cells[base + k.DRAINED_FROM])
        if not broken_too and (cells[base + k.IS_BROKEN] or full):
            return math.inf
        free_at = max(cells[base + k.REFUSES_UNTIL], cells[base + k.THROTTLED_UNTIL])
        for tat, cost_s in (
            (k.REQUEST_TAT, offer[k.REQUEST_INTERVAL_S]),
            (k.TOKEN_TAT, tokens * offer[k.TOKEN_INTERVAL_S]),
        ):
            if cost_s > 0.0:
                free_at = max(free_at, k.gcra_free_at(cells[base + tat], cost_s, offer[k.BURST_S]))
        return float(free_at)

    def _static_row(self, offer: Offer, slot: int) -> list[float]:
        price = offer.price
        cached = price.cached_input_usd_per_mtok
        row: list[float] = [0.0] * k.N_STATIC
        row[k.PRICE_IN] = price.input_usd_per_mtok
        row[k.PRICE_CACHED] = price.input_usd_per_mtok if cached is None else cached
        row[k.PRICE_OUT] = price.output_usd_per_mtok
        row[k.PRICE_GPU_HOUR] = price.usd_per_gpu_hour
        row[k.CONTEXT_WINDOW] = math.inf if offer.context_window_tokens is None else offer.context_window_tokens
        row[k.CAPABILITIES] = int(offer.capabilities)
        row[k.KINDS] = sum(KIND_BITS[kind] for kind in set(offer.kinds))
        row[k.REGIONS] = self.region_bits(offer.regions)
        row[k.IS_GLOBAL] = GLOBAL_REGION in offer.regions
        row[k.REPUTATION] = offer.reputation
        row[k.ADVERTISED_MS] = offer.latency_ms
        row[k.CAPACITY] = math.inf if offer.capacity is None else offer.capacity
        row[k.REQUEST_INTERVAL_S] = interval_s(offer.requests_per_min)
        row[k.TOKEN_INTERVAL_S] = interval_s(offer.tokens_per_min)
        row[k.BURST_S] = max(BURST_S, row[k.REQUEST_INTERVAL_S])
        row[k.SLOT] = slot
        return row


def _carried(
    offer: Offer, carry: Board | None, settings: BreakerSettings, patience: PatienceSettings
) -> LiveState | None:
    row = None if carry is None else carry.row_of.get(offer.id)
    if carry is None or row is None or carry.offers[row].provider != offer.provider:
        return None
    state = carry.states[row]
    state.mend(settings, patience)
    return state


def _group(pairs: Iterable[tuple[str, int]]) -> dict[str, tuple[int, ...]]:
    groups: dict[str, tuple[int, ...]] = {}
    for name, row in pairs:
        groups[name] = (*groups.get(name, ()), row)
    return groups


def _pools(
    offers: Sequence[Offer], row_of: Mapping[str, int], aliases: Mapping[str, Sequence[str]]
) -> dict[str, k.Ints]:
    by_resource = _group((offer.resource, row) for row, offer in enumerate(offers))
    pools = dict(by_resource)
    for alias, members in aliases.items():
        rows: dict[int, None] = {}
        for member in members:
            if member in by_resource:
                rows.update(dict.fromkeys(by_resource[member]))
            elif member in row_of:
                rows[row_of[member]] = None
            else:
                raise ValueError(f"alias {alias!r} names {member!r}, which is neither a resource nor an offer")
        pools[alias] = tuple(rows)
    return {name: np.array(rows, dtype=np.int64) for name, rows in pools.items()}


def _region_bits(offers: Sequence[Offer]) -> dict[str, int]:
    names = sorted({region for offer in offers for region in offer.regions} - {GLOBAL_REGION})
    if len(names) > MAX_REGIONS:
        raise ValueError(f"the offers name {len(names)} regions; at most {MAX_REGIONS} can be told apart")
    return {name: 1 << place for place, name in enumerate(names)}
