"""From the cells of ``Metrics`` to metric families, at scrape time.

Names follow https://prometheus.io/docs/practices/naming/: base units, ``_total`` on counters (added by
prometheus_client), labels with few values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from amaru.telemetry.histogram import Histogram
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from amaru.telemetry.counts import Counts
    from amaru.telemetry.metrics import Metrics

DELIVERED = frozenset(("ok", "abandoned"))
"""Outcomes of attempts whose answer was delivered, whole or as far as its caller waited for it."""
BREAKER_STATES = {"closed": 0.0, "half_open": 1.0, "open": 2.0}

T = TypeVar("T")
Labels = tuple[str, ...]
Key = TypeVar("Key", bound=Labels)
_log = get_logger("telemetry")


class MetricsCollector(Collector):
    """Yields every family of a ``Metrics``. A state that cannot be asked for is left out, and the rest is shown."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        """Nothing: what is shown is known at scrape time only."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family, once per scrape."""
        counts = self._metrics.total()
        yield from self._traffic(counts)
        yield from self._attempts(counts)
        yield from self._spend(counts)
        yield from self._state()

    @staticmethod
    def _traffic(m: Counts) -> Iterator[Metric]:
        yield _counter(
            "amaru_requests",
            "Requests that were routed, by how they ended.",
            ("tenant", "kind", "resource", "outcome"),
            {key: cell.count for key, cell in list(m.requests.items())},
        )
        yield _histogram(
            "amaru_request_duration_seconds",
            "From a request's arrival to the end of its answer.",
            ("kind", "resource", "outcome"),
            m.durations,
        )
        yield _histogram(
            "amaru_time_to_first_token_seconds",
            "From a request's arrival to the first token of its stream.",
            ("kind", "resource"),
            m.first_tokens,
        )
        yield _counter(
            "amaru_refusals",
            "Requests refused before anything was decided, by the status answered.",
            ("kind", "status"),
            {(kind, str(status)): count for (kind, status), count in list(m.refusals.items())},
        )
        yield _counter(
            "amaru_recommendations",
            "Rankings made for workloads that are placed elsewhere.",
            ("tenant", "kind"),
            m.recommendations,
        )
        decisions = HistogramMetricFamily("amaru_decision_duration_seconds", "Deciding alone, without the call.")
        decisions.add_metric((), m.decisions.cumulative(), m.decisions.total)
        yield decisions

    @staticmethod
    def _attempts(m: Counts) -> Iterator[Metric]:
        yield _counter(
            "amaru_attempts",
            "Calls to offers, by how they ended: ok, abandoned by the caller, diverged (not to be joined to what was "
            "sent already), or the failure's kind.",
            ("offer", "outcome"),
            {key: cell.count for key, cell in list(m.attempts.items())},
        )
        yield _counter(
            "amaru_attempt_received_bytes",
            "Bytes of answers that came from offers, by how the calls ended.",
            ("offer", "outcome"),
            {key: cell.received_bytes for key, cell in list(m.attempts.items())},
        )
        yield _histogram(
            "amaru_attempt_duration_seconds",
            "From the beginning of a call to its end.",
            ("offer",),
            {(offer,): histogram for offer, histogram in list(m.attempt_durations.items())},
        )
        yield _histogram(
            "amaru_attempt_time_to_first_token_seconds",
            "From the beginning of a call to its first token.",
            ("offer",),
            {(offer,): histogram for offer, histogram in list(m.attempt_first_tokens.items())},
        )
        yield _counter(
            "amaru_failovers", "Changes from a failed offer to another within one request.", (), {(): m.failovers}
        )
        yield _counter(
            "amaru_rescues",
            "Requests whose stream broke, by how it ended: continued, repeated or unseen (joined by another call), "
            "complete (all but its finish reason had come), failed, or cancelled by the caller.",
            ("how",),
            {(how,): count for how, count in list(m.rescues.items())},
        )
        yield _counter(
            "amaru_conversations",
            "Requests of conversations, by what was remembered: known, new; late or alone where Redis did not answer "
            "in time or was away, so that this machine's memory was all there was; dropped: turns not shared.",
            ("what",),
            {(what,): count for what, count in list(m.conversations.items())},
        )
        yield _counter(
            "amaru_retries",
            "Second calls to the same offer within one request.",
            ("offer",),
            {(offer,): count for offer, count in list(m.retries.items())},
        )
        yield _counter(
            "amaru_bills_above_estimate",
            "Calls that cost more than was reserved for them: the offer does not do what its settings say.",
            ("offer",),
            {(offer,): count for offer, count in list(m.bills_above_estimate.items())},
        )
        yield _counter(
            "amaru_accounts_charges_lost",
            "Calls whose charge could be kept nowhere: the journal cannot be written, and the store is gone.",
            (),
            {(): m.charges_lost},
        )
        yield _counter(
            "amaru_webhooks",
            "Tries to send an alert: delivered, failed and to be tried again, or given_up.",
            ("result",),
            {(result,): count for result, count in list(m.webhooks.items())},
        )
        failed: dict[tuple[str, ...], float] = {}
        for (offer, outcome), cell in list(m.attempts.items()):
            if outcome not in DELIVERED:
                failed[offer,] = failed.get((offer,), 0.0) + cell.cost_usd
        yield _counter(
            "amaru_failed_attempts_cost_usd", "Cost of calls that delivered no whole answer.", ("offer",), failed
        )

    @staticmethod
    def _spend(m: Counts) -> Iterator[Metric]:
        tokens: dict[tuple[str, ...], float] = {}
        cost: dict[tuple[str, ...], float] = {}
        for (tenant, offer, source), cell in list(m.usage.items()):
            cost[tenant, offer, source] = cell.cost_usd
            for direction, count in (
                ("input", cell.input_tokens),
                ("cached_input", cell.cached_tokens),
                ("output", cell.output_tokens),
            ):
                key = (offer, direction, source)
                tokens[key] = tokens.get(key, 0) + count
        yield _counter(
            "amaru_tokens",
            "Tokens delivered; cached input is not counted as input again. source: provider, counted or estimated.",
            ("offer", "direction", "source"),
            tokens,
        )
        yield _counter("amaru_cost_usd", "Cost of the answers delivered.", ("tenant", "offer", "source"), cost)

    def _state(self) -> Iterator[Metric]:
        m = self._metrics
        yield _gauge("amaru_build_info", "Always 1; the labels tell the version.", ("version",), {(m.version,): 1})
        in_flight = _ask(m.in_flight, "in_flight")
        if in_flight is not None:
            yield _gauge("amaru_in_flight", "Requests being served.", (), {(): in_flight})
        offers = _ask(m.offers, "offers")
        if offers is not None:
            yield _gauge(
                "amaru_breaker_state",
                "0 closed, 1 half open, 2 open.",
                ("offer",),
                {(offer.offer,): BREAKER_STATES.get(offer.state, 2.0) for offer in offers},
            )
            yield _gauge(
                "amaru_offer_in_flight",
                "Requests (GPU-hours for GPU work) under way at an offer.",
                ("offer",),
                {(offer.offer,): offer.in_flight for offer in offers},
            )
        store = _ask(m.store, "store")
        if store is not None:
            yield _counter("amaru_decisions_recorded", "Decisions written to the store.", (), {(): store.written})
            yield _counter("amaru_decisions_dropped", "Decisions never written.", (), {(): store.dropped})
            yield _counter("amaru_decisions_deleted", "Decisions removed by retention.", (), {(): store.deleted})
            yield _gauge("amaru_store_healthy", "1: the last write succeeded.", (), {(): float(store.healthy)})
            yield _gauge("amaru_store_queue_records", "Decisions waiting to be written.", (), {(): store.queue_depth})
            size = store.file_bytes + store.wal_bytes
            yield _gauge("amaru_store_size_bytes", "The store's file and its log on disk.", (), {(): size})
        policy = _ask(m.policy, "policy")
        if policy is not None:
            label, key = ("policy",), (policy.name,)
            yield _counter(
                "amaru_policy_outcomes", "Outcomes that the policy learned from.", label, {key: policy.outcomes}
            )
            yield _counter("amaru_policy_outcomes_lost", "Outcomes it could not learn from.", label, {key: policy.lost})
            if policy.saved_at is not None:
                yield _gauge(
                    "amaru_policy_saved_timestamp_seconds",
                    "When what it learned was last handed to the store, in Unix seconds.",
                    label,
                    {key: policy.saved_at},
                )
        failures = _ask(m.artifact_failures, "artifact_failures")
        if failures is not None:
            yield _counter(
                "amaru_policy_artifact_failures", "Artifacts that could not be looked up or loaded.", (), {(): failures}
            )
        dropped = _ask(m.log_lines_dropped, "log_lines_dropped")
        if dropped is not None:
            yield _counter("amaru_log_lines_dropped", "Log lines lost to a slow or broken stream.", (), {(): dropped})


def _ask(question: Callable[[], T] | None, name: str) -> T | None:
    if question is None:
        return None
    try:
        return question()
    except Exception:  # the other rooms' bug must not blind the operator
        _log.exception("metric_unavailable", metric=name)
        return None


def _counter(name: str, help_: str, labels: Labels, values: Mapping[Key, float]) -> Metric:
    family = CounterMetricFamily(name, help_, labels=labels)
    for key, value in list(values.items()):
        family.add_metric(key, value)
    return family


def _gauge(name: str, help_: str, labels: Labels, values: Mapping[Key, float]) -> Metric:
    family = GaugeMetricFamily(name, help_, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, help_: str, labels: Labels, values: Mapping[Key, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, help_, labels=labels)
    for key, histogram in list(values.items()):
        if any(histogram.counts):
            family.add_metric(key, histogram.cumulative(), histogram.total)
    return family
