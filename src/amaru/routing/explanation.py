"""Decisions in words: why each offer stands where it stands, and what refused the others.

One path serves live and stored decisions: both are ``Figures``, the offers come from the board or from storage.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence

from amaru.domain import Capability, Decision, Kind, Offer, RankedOffer, Refusal, ScoreParts, Workload
from amaru.errors import RequestError
from amaru.protocols.surcharges import SURCHARGES
from amaru.routing import kernels as k
from amaru.routing.explanation_learned import is_learned, learned_reasons
from amaru.routing.explanation_steered import behind_by_care, is_steered, steered_words
from amaru.routing.explanation_warm import is_warm, warm_words, warmed
from amaru.routing.kernels import Code
from amaru.routing.ranking import Figures, Ranking, unpack

CONSTRAINTS: dict[Code, str] = {
    Code.KIND: "kind",
    Code.CAPABILITY: "capability",
    Code.REGION: "region",
    Code.REGION_LIMIT: "regions",
    Code.CONTEXT_WINDOW: "context_window",
    Code.MAX_PRICE: "max_price",
    Code.MIN_REPUTATION: "min_reputation",
    Code.MAX_LATENCY: "max_latency_ms",
    Code.TOO_LARGE: "capacity",
    Code.EXCLUDED: "excluded",
    Code.BROKEN: "broken",
    Code.SLOWED: "max_latency_ms",
    Code.COOLING_DOWN: "cooling_down",
    Code.THROTTLED: "throttled",
    Code.RATE_LIMIT: "rate_limit",
    Code.CAPACITY: "capacity",
    Code.DRAINED: "drained",
    Code.BUDGET: "budget",
}
"""The name of each constraint in refusals and errors; limits are named as in the configuration."""

_TERMS = (
    (k.PRICE_PART, "cheapest"),
    (k.LATENCY_PART, "fastest"),
    (k.REPUTATION_PART, "most reputable"),
    (k.AVAILABILITY_PART, "most available"),
)


def explain(offers: Sequence[Offer], figures: Figures, decision_id: str, at: float, *, words: bool = True) -> Decision:
    """The decision in words.

    ``offers`` are those of the board with ``figures.version``, in its order; ``at`` is the decision's Unix time.
    Without ``words`` the ranks' reasons stay empty, for callers who rank in bulk; their figures are all there.
    """
    workload = figures.workload
    figures_of = dict(zip(figures.rows.tolist(), figures.table.tolist(), strict=True))
    return Decision(
        id=decision_id,
        at=at,
        tenant=workload.tenant,
        resource=workload.resource,
        policy=figures.policy,
        ranked=tuple((_ranked if words else _ranked_without_words)(offers, figures, figures_of)),
        refused=_refusals(offers, figures, figures_of) if len(figures.order) < len(figures_of) else (),
        explored=figures.explored,
        propensity=figures.propensity,
    )


def explain_packed(offers: Sequence[Offer], version: str, packed: bytes, decision_id: str, at: float) -> Decision:
    """A stored decision in words, from the offers of the board it was made on.

    Raises ValueError where ``packed`` is not a packed ranking or was made on another version of the board.
    """
    figures = unpack(packed)
    if figures.version != version:
        raise ValueError(f"this decision was made on board {figures.version}, the offers given are of {version}")
    return explain(offers, figures, decision_id, at)


def why_none(ranking: Ranking, soonest_s: float | None = None) -> RequestError:
    """The error for a caller whose ranking has no feasible offer, naming what refused each.

    429 where waiting for rate limits is all that is needed, 503 where waiting for something is, both with
    ``retry_after_s`` where the instant is known; 502 where a person must fix an offer; 400 where no offer that there
    is could serve this request. ``soonest_s`` overrides the board's own figure for the soonest return.
    """
    offers = ranking.board.offers
    figures_of = dict(zip(ranking.rows.tolist(), ranking.table.tolist(), strict=True))
    refusals = _refusals(offers, ranking, figures_of)
    counts = collections.Counter(refusal.constraint for refusal in refusals)
    details = {refusal.constraint: refusal.detail for refusal in reversed(refusals)}
    causes = "; ".join(
        f"{count} of {len(refusals)} by {name} ({details[name]})" for name, count in counts.most_common()
    )
    resource = ranking.workload.resource
    codes = {Code(code) for code in ranking.codes.tolist()}
    passing = {code for code in codes if Code.SLOWED <= code < Code.BUDGET}
    if passing:
        limited = passing <= {Code.THROTTLED, Code.RATE_LIMIT}
        if soonest_s is None:
            tokens = ranking.workload.input_tokens + ranking.workload.output_tokens
            busy = [row for row in ranking.rows.tolist() if ranking.may_return((row,))]
            soonest_s = ranking.board.soonest_return_s(busy, ranking.at, tokens)
        return RequestError(
            429 if limited else 503,
            f"No offer for {resource!r} is free now: {causes}.",
            type="rate_limit_error" if limited else "service_unavailable_error",
            code="rate_limit_exceeded" if limited else "no_offer_available",
            retry_after_s=soonest_s,
        )
    if codes & {Code.BROKEN, Code.EXCLUDED}:
        return RequestError(
            502,
            f"No offer for {resource!r} can answer until its operator mends it: {causes}.",
            type="upstream_error",
            code="no_offer_available",
        )
    too_long = Code.CONTEXT_WINDOW in codes and codes <= {
        Code.KIND,
        Code.CAPABILITY,
        Code.REGION,
        Code.REGION_LIMIT,
        Code.CONTEXT_WINDOW,
    }
    return RequestError(
        400,
        f"No offer satisfies this request for {resource!r}: {causes}.",
        code="context_length_exceeded" if too_long else "no_feasible_offer",
    )


def _ranked_without_words(
    offers: Sequence[Offer], figures: Figures, figures_of: dict[int, list[float]]
) -> list[RankedOffer]:
    return [_rank(offers[row], figures_of[row], "") for row in figures.order]


def _rank(offer: Offer, found: list[float], reason: str) -> RankedOffer:
    score, price, latency, reputation, availability, usd, cost, ms, trust, share = found[: k.FIGURE]
    draw, parts_sum = found[k.DRAW], price + latency + reputation + availability
    # Q-learning's score is the value of a state; the parts share in it as they do in the rule's expectation.
    scale = (score - draw) / parts_sum if parts_sum > 0.0 else 1.0
    if abs(scale - 1.0) < 1e-6:
        scale = 1.0
    parts = ScoreParts(price * scale, latency * scale, reputation * scale, availability * scale, draw)
    return RankedOffer(offer.id, offer.provider, offer.model, score, parts, usd, cost, ms, trust, share, reason)


def _ranked(offers: Sequence[Offer], figures: Figures, figures_of: dict[int, list[float]]) -> list[RankedOffer]:
    """Every rank with its reason: what the first is best at, and where each other loses most against it."""
    if not figures.order:
        return []
    if is_learned(figures, figures_of):
        reasons = learned_reasons(figures, figures_of, _unit(figures.workload), _strengths(figures, figures_of))
        return [_rank(offers[row], figures_of[row], why) for row, why in zip(figures.order, reasons, strict=True)]
    # Twenty offers a decision, thousands of decisions a second: what is the same for all is worked out once.
    score_1, price_1, latency_1, reputation_1, availability_1, usd_1, _, ms_1, trust_1, share_1 = figures_of[
        figures.order[0]
    ][: k.FIGURE]
    best_score = max([figures_of[row][k.SCORE] for row in figures.order])
    warm = is_warm(figures_of[row] for row in figures.order)
    if warm:
        usd_1, ms_1 = warmed(figures_of[figures.order[0]])
    than_price = f" against {usd_1:.4g} {_unit(figures.workload)}"
    than_latency = f" against {ms_1:.0f} ms"
    ranked: list[RankedOffer] = []
    reason = _why_first(figures, figures_of)
    steered = is_steered(figures_of[row] for row in figures.order)
    for row in figures.order:
        offer = offers[row]
        score, price, latency, reputation, availability, usd, _, ms, trust, share = figures_of[row][: k.FIGURE]
        if warm:
            usd, ms = warmed(figures_of[row])
        if ranked:
            behind = score_1 - score
            by_price = price_1 - price
            by_latency = latency_1 - latency
            by_reputation = reputation_1 - reputation
            by_availability = availability_1 - availability
            if behind <= 0.0:
                reason = _why_not_first(figures, score, behind, best_score)
            elif by_price >= by_latency and by_price >= by_reputation and by_price >= by_availability:
                reason = f"{behind:.3g} behind the first, most by price: {usd:.4g}{than_price}"
            elif by_latency >= by_reputation and by_latency >= by_availability:
                reason = f"{behind:.3g} behind the first, most by latency: {ms:.0f}{than_latency}"
            elif by_reputation >= by_availability:
                reason = f"{behind:.3g} behind the first, most by reputation: {trust:g} against {trust_1:g}"
            else:
                reason = f"{behind:.3g} behind the first, most by availability: {share:.1%} against {share_1:.1%}"
            if steered and behind > 0.0:
                reason = behind_by_care(figures_of[row], figures_of[figures.order[0]]) or reason
        words = steered_words(figures_of[row]) if steered else ""
        if warm:
            words += warm_words(figures_of[row])
        ranked.append(_rank(offer, figures_of[row], reason + words))
    return ranked


def _why_first(figures: Figures, figures_of: dict[int, list[float]]) -> str:
    n = len(figures.order)
    if n == 1:
        return "the only feasible offer"
    if figures.explored:
        return f"drawn among {n} by the exploration floor"
    if figures.tied > 1:
        return f"drawn by lot among {figures.tied} of {n} with the same score"
    return f"first of {n}: {_strengths(figures, figures_of) or 'best in sum'}"


def _strengths(figures: Figures, figures_of: dict[int, list[float]]) -> str:
    """What the first of several is best at."""
    first, *others = (figures_of[row] for row in figures.order)
    strengths = []
    for part, word in _TERMS if others else ():
        rivals = [other[part] for other in others]
        if first[part] >= max(rivals) and first[part] > min(rivals):
            strengths.append(word)
    return ", ".join(strengths)


def _why_not_first(figures: Figures, score: float, behind: float, best_score: float) -> str:
    """For an offer that scores no less than the first."""
    if not figures.explored:
        lot = figures.tied > 1
        return "the same score as the first, which was drawn by lot" if lot else "behind the first by less than 1e-6"
    if score == best_score:
        return "best by score; the exploration floor drew another"
    return f"{-behind:.3g} ahead of the first by score; the exploration floor drew that one"


def _refusals(offers: Sequence[Offer], figures: Figures, figures_of: dict[int, list[float]]) -> tuple[Refusal, ...]:
    workload = figures.workload
    return tuple(
        Refusal(
            offers[row].id,
            offers[row].provider,
            CONSTRAINTS[Code(code)],
            _detail(Code(code), figures_of[row][k.FIGURE], offers[row], workload, figures_of[row][k.LOAD]),
        )
        for row, code in zip(figures.rows.tolist(), figures.codes.tolist(), strict=True)
        if code != Code.FEASIBLE
    )


def _detail(code: Code, figure: float, offer: Offer, workload: Workload, load: float) -> str:
    """What refused the offer, with both figures."""
    limits = workload.limits
    match code:
        case Code.KIND:
            return f"it serves {', '.join(offer.kinds)}, not {workload.kind}"
        case Code.CAPABILITY:
            missing = (flag.name or "" for flag in Capability(int(figure)))
            return f"it lacks {', '.join(name.lower() for name in missing)}"
        case Code.REGION:
            return f"it serves {', '.join(offer.regions)}, not {workload.region}"
        case Code.REGION_LIMIT:
            return f"it serves {', '.join(offer.regions)}; allowed are {', '.join(limits.regions or ()) or 'none'}"
        case Code.CONTEXT_WINDOW:
            tokens = workload.input_tokens + workload.output_tokens
            return f"{tokens} tokens of input and output exceed its context window of {figure:.0f}"
        case Code.MAX_PRICE:
            return f"price {_usd(figure)} {_unit(workload)} is above the limit {_usd(limits.max_price)}"
        case Code.MIN_REPUTATION:
            return f"reputation {figure:g} is below the limit {limits.min_reputation:g}"
        case Code.MAX_LATENCY:
            return f"expected latency {figure:.0f} ms is above the limit {limits.max_latency_ms:g}"
        case Code.TOO_LARGE:
            return f"{_place(workload)} needed, {figure:g} there in all"
        case Code.EXCLUDED:
            return "tried already for this request"
        case Code.BROKEN:
            return f"credentials, quota or model name refused by the provider; {_probe(figure)}"
        case Code.SLOWED:
            return (
                f"expected latency {figure:.0f} ms is now above the limit {limits.max_latency_ms:g}"
                f" (advertised {offer.latency_ms:g})"
            )
        case Code.COOLING_DOWN:
            return f"cooling down after failures; {_probe(figure)}"
        case Code.THROTTLED:
            return f"throttled by the provider for {_seconds(figure)} more"
        case Code.RATE_LIMIT:
            return f"its rate limit is used up for {_seconds(figure)} more"
        case Code.CAPACITY:
            return f"{_place(workload)} needed, {figure:.4g} {_of_capacity(offer, figure, load)}"
        case Code.DRAINED:
            if figure > 0.0:
                return f"kept to {figure:g} at once: it serves more only where no other offer can take it now"
            return "drained: it serves only what no other offer can take now"
        case Code.BUDGET:
            if figure >= 1.0:
                return (
                    f"a budget binds it, and the offer's price does not say what {SURCHARGES[int(figure) - 1]} may cost"
                )
            return "a budget does not cover what this request may cost there; `amaru budgets list` shows what is left"
        case Code.FEASIBLE:
            return ""


def _of_capacity(offer: Offer, free: float, load: float) -> str:
    if offer.capacity is None or free < offer.capacity * (1.0 - load) * 0.9999:
        return "free under the limit that a healing has set"
    return f"of {offer.capacity:g} free"


def _probe(seconds: float) -> str:
    return f"next probe in {_seconds(seconds)}" if seconds < math.inf else "a probe is under way"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds * 1000.0:.0f} ms"


def _place(workload: Workload) -> str:
    return f"{workload.gpu_hours:g} GPU-hours" if workload.kind is Kind.GPU_JOB else "1 place"


def _unit(workload: Workload) -> str:
    return "USD per GPU-hour" if workload.kind is Kind.GPU_JOB else "USD per million tokens"


def _usd(amount: float | None) -> str:
    if amount is None:
        return "none"
    return f"{amount:.2f}" if abs(amount * 100.0 - round(amount * 100.0)) < 1e-6 else f"{amount:.6g}"
