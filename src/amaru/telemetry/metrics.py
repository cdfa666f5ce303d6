"""What is counted on the way of a request, and how it is shown to Prometheus.

Each ``Metrics`` has a registry of its own; nothing is global. Observing is plain arithmetic on cells that are found by
one dictionary look-up; prometheus_client does what it is best at, the exposition formats, at scrape time.

Labels are bounded: a request for an unknown model is a refusal without a resource label, and beyond a number of
distinct names, further ones are counted as ``other``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from amaru import __version__
from amaru.domain import Attempt, Join, Usage
from amaru.telemetry.counts import AttemptCell, Counts, RequestCell, Tally, UsageCell, tally_of
from amaru.telemetry.exposition import MetricsCollector
from amaru.telemetry.histogram import FIRST_TOKEN_SECONDS, SECONDS, Histogram
from amaru.telemetry.scraping import exposition

OTHER = "other"
MAX_NAMES = 500
"""Distinct values of one label (tenants, resources, offers) before further ones become ``other``."""
MAX_REQUEST_SERIES = 5_000
"""Distinct combinations of a request's labels before further ones become ``other`` in all but the outcome."""


class OfferState(Protocol):
    """What is shown of an offer; ``routing``'s OfferHealth has it."""

    @property
    def offer(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def in_flight(self) -> float: ...


class StoreState(Protocol):
    """What is shown of the store; ``storage``'s StoreStatus has it."""

    @property
    def healthy(self) -> bool: ...
    @property
    def queue_depth(self) -> int: ...
    @property
    def written(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def deleted(self) -> int: ...
    @property
    def file_bytes(self) -> int: ...
    @property
    def wal_bytes(self) -> int: ...


class PolicyState(Protocol):
    """What is shown of the policy; ``mesh``'s Learner has it."""

    @property
    def name(self) -> str: ...
    @property
    def outcomes(self) -> int: ...
    @property
    def lost(self) -> int: ...
    @property
    def saved_at(self) -> float | None: ...


class Names:
    """The values that a label may take: first come, first served, up to a limit."""

    def __init__(self, limit: int = MAX_NAMES) -> None:
        self._known: set[str] = set()
        self._limit = limit

    def admit(self, name: str) -> str:
        """``name``, or ``other`` where there are too many."""
        if name in self._known:
            return name
        if len(self._known) >= self._limit:
            return OTHER
        # A plain string of its own: enum members and slices of request bodies are not kept alive.
        name = str.__str__(name)
        self._known.add(name)
        return name


class Metrics(Counts):
    """Counters and histograms of one server. Observing belongs to the event loop's thread."""

    def __init__(self) -> None:
        super().__init__()
        self.version = __version__
        self.in_flight: Callable[[], float] | None = None
        self.offers: Callable[[], Sequence[OfferState]] | None = None
        self.store: Callable[[], StoreState] | None = None
        self.log_lines_dropped: Callable[[], int] | None = None
        self.policy: Callable[[], PolicyState] | None = None
        self.artifact_failures: Callable[[], int] | None = None
        self.others: Callable[[], Sequence[Tally]] = tuple
        """What the other workers of the machine counted."""
        self._tenants, self._resources, self._offers = Names(), Names(), Names()
        self.registry = CollectorRegistry()
        self.registry.register(MetricsCollector(self))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def watch(
        self,
        in_flight: Callable[[], float] | None = None,
        offers: Callable[[], Sequence[OfferState]] | None = None,
        store: Callable[[], StoreState] | None = None,
        log_lines_dropped: Callable[[], int] | None = None,
        policy: Callable[[], PolicyState] | None = None,
        artifact_failures: Callable[[], int] | None = None,
        others: Callable[[], Sequence[Tally]] | None = None,
    ) -> None:
        """Ask these at scrape time; what is left out stays as it was."""
        self.in_flight = in_flight or self.in_flight
        self.offers = offers or self.offers
        self.store = store or self.store
        self.log_lines_dropped = log_lines_dropped or self.log_lines_dropped
        self.policy = policy or self.policy
        self.artifact_failures = artifact_failures or self.artifact_failures
        self.others = others or self.others

    # ---- observing ----------------------------------------------------------------------------------------------

    def observe_request(
        self, tenant: str, kind: str, resource: str, outcome: str, duration_s: float, first_token_s: float | None
    ) -> None:
        """One request ended; ``outcome`` is ``ok`` or one bounded word for why not."""
        cell = self.requests.get((tenant, kind, resource, outcome))
        if cell is None:
            cell = self._request_cell(tenant, kind, resource, outcome)
        cell.count += 1
        cell.duration.observe(duration_s)
        if first_token_s is not None:
            cell.first_token.observe(first_token_s)

    def observe_attempts(self, attempts: Sequence[Attempt]) -> None:
        """The attempts of one request, in order; a change of offer between two of them is a failover."""
        previous = None
        for attempt in attempts:
            offer = attempt.offer
            outcome = attempt.failure or (_given_up(attempt) if attempt.detail else "ok")
            cell = self.attempts.get((offer, outcome)) or self._attempt_cell(offer, outcome)
            cell.count += 1
            cell.cost_usd += attempt.cost_usd
            cell.received_bytes += attempt.bytes_received
            cell.duration.observe(attempt.latency_ms / 1e3)
            if attempt.first_token_ms is not None:
                cell.first_token.observe(attempt.first_token_ms / 1e3)
            if previous is not None and offer != previous:
                self.failovers += 1
            previous = offer

    def observe_usage(self, tenant: str, offer: str, usage: Usage, cost_usd: float) -> None:
        """What an answer delivered to a tenant used and cost."""
        cell = self.usage.get((tenant, offer, usage.source)) or self._usage_cell(tenant, offer, usage.source)
        cached = usage.cached_input_tokens
        cell.input_tokens += usage.input_tokens - cached
        cell.cached_tokens += cached
        cell.output_tokens += usage.output_tokens
        cell.cost_usd += cost_usd

    def observe_retry(self, offer: str) -> None:
        """The same offer is asked again within one request."""
        offer = self._offers.admit(offer)
        self.retries[offer] = self.retries.get(offer, 0) + 1

    def observe_bill_above_estimate(self, offer: str) -> None:
        """An attempt cost more than was reserved for it."""
        offer = self._offers.admit(offer)
        self.bills_above_estimate[offer] = self.bills_above_estimate.get(offer, 0) + 1

    def observe_charge_lost(self) -> None:
        """A charge could be kept nowhere."""
        self.charges_lost += 1

    def observe_webhook(self, result: str) -> None:
        """One try to send an alert; may be called from a thread of its own, by one at a time."""
        self.webhooks[result] = self.webhooks.get(result, 0) + 1

    def observe_decision(self, duration_s: float) -> None:
        """One ranking was made."""
        self.decisions.observe(duration_s)

    def observe_recommendation(self, tenant: str, kind: str, duration_s: float) -> None:
        """One ranking was made for a workload that somebody else will place."""
        key = (self._tenants.admit(tenant), kind)
        self.recommendations[key] = self.recommendations.get(key, 0) + 1
        self.decisions.observe(duration_s)

    def observe_rescue(self, how: str) -> None:
        """The stream of one request broke; ``how`` it ended is one bounded word."""
        self.rescues[how] = self.rescues.get(how, 0) + 1

    def observe_conversation(self, what: str) -> None:
        """A conversation was recalled, or could not be told to other machines; ``what`` is one bounded word."""
        self.conversations[what] = self.conversations.get(what, 0) + 1

    def observe_refusal(self, kind: str, status: int) -> None:
        """A request was refused before anything was decided: bad key, bad body, unknown model."""
        self.refusals[kind, status] = self.refusals.get((kind, status), 0) + 1

    # ---- cells: looked for by the labels as given, kept under the labels as admitted ----------------------------

    def _request_cell(self, tenant: str, kind: str, resource: str, outcome: str) -> RequestCell:
        tenant, kind, resource = self._tenants.admit(tenant), str.__str__(kind), self._resources.admit(resource)
        if len(self.requests) >= MAX_REQUEST_SERIES:
            tenant = resource = OTHER
        cell = self.requests.get((tenant, kind, resource, outcome))
        if cell is None:
            duration = self.durations.setdefault((kind, resource, outcome), Histogram(SECONDS))
            first_token = self.first_tokens.setdefault((kind, resource), Histogram(FIRST_TOKEN_SECONDS))
            cell = self.requests[tenant, kind, resource, outcome] = RequestCell(duration, first_token)
        return cell

    def _attempt_cell(self, offer: str, outcome: str) -> AttemptCell:
        offer, outcome = self._offers.admit(offer), str.__str__(outcome)
        cell = self.attempts.get((offer, outcome))
        if cell is None:
            duration = self.attempt_durations.setdefault(offer, Histogram(SECONDS))
            first_token = self.attempt_first_tokens.setdefault(offer, Histogram(FIRST_TOKEN_SECONDS))
            cell = self.attempts[offer, outcome] = AttemptCell(duration, first_token)
        return cell

    def _usage_cell(self, tenant: str, offer: str, source: str) -> UsageCell:
        tenant, offer, source = self._tenants.admit(tenant), self._offers.admit(offer), str.__str__(source)
        return self.usage.setdefault((tenant, offer, source), UsageCell())

    # ---- showing ------------------------------------------------------------------------------------------------

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """See ``scraping.exposition``."""
        return exposition(self.registry, accept)

    def total(self) -> Counts:
        """What was counted here and by ``others``."""
        told = self.others()
        if not told:
            return self
        whole = Counts()
        for one in (tally_of(self), *told):
            whole.add(one)
        return whole

    def summary(self) -> dict[str, Any]:  # Any: JSON
        """Plain figures since the start, for ``/status``: see ``Counts.summary``."""
        return Counts.summary(self.total())


def _given_up(attempt: Attempt) -> str:
    return "diverged" if attempt.joined is Join.DIVERGED else "abandoned"
