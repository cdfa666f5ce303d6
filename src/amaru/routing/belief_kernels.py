"""A Bayesian belief about each offer: will it answer, how long will it take, what will it charge.

What an offer is like is *learned*, as sums over outcomes, decayed by event time, the prior left out (law 6); sums of
several origins can be added. From the slow ones follow its usual share of successes (a Beta posterior mean) and its
usual latency (log(latency/posted) regressed on the load: Bayesian linear regression, conjugate), from the fast ones
the price that it charges now.

What is the matter with it at the moment (nothing; degraded: mildly, clearly or severely; down) is *sensed*: a hidden
Markov model filtered forward, outcome by outcome (Rabiner, 1989), with the usual figures as those of "nothing". That is
a state of the moment, as a breaker's is: it is saved with the policy, and not merged.

Offers of one provider fall together. So each outcome is taken in by two slots, the offer's and its provider's, and what
is believed of the offer is in part (``SIBLINGS``) what is known of its provider.
"""

from __future__ import annotations

import math

from amaru.compiling import compiled, inlined
from amaru.routing.kernels import Floats

# Scales of `sums` [slots, N_SCALES, N_SUMS].
FAST, SLOW = range(2)
N_SCALES = 2

# Sums of one scale, each over decayed outcomes; x is the load, y is log(latency/posted), c is log(charged/posted).
(TRIES, WINS, N_Y, X, XX, Y, XY, YY, N_C, C) = range(10)
N_SUMS = 10

# Columns of `beliefs` [slots, N_BELIEFS].
(
    SUMS_AT,  # instant that the sums are decayed to
    SENSED_AT,  # instant that the next five are for
    MILD,  # probability of each thing that may be the matter; the rest: nothing
    CLEAR,
    SEVERE,
    FALLEN,
    SHIFT,  # rise of log-latency while degraded
    OUTCOMES,  # taken in ever; a provider's tells its offers that there is news
    # The rest is of offers only, and worked out of the above.
    FORMED_FOR,  # the provider's OUTCOMES when it was
    AS_OF,  # instant that it is for
    SUCCESS,  # mean, over what may be the matter
    AS_USUAL,  # success if nothing is
    AS_USUAL_SD,
    IF_DEGRADED,  # success if it is degraded
    IF_DOWN,
    P_DEGRADED,  # probability that it is degraded now
    P_DOWN,
    LOG_MS,  # mean of log(latency/posted) at no load
    LOG_MS_USUAL,  # the same if nothing is the matter
    LOG_MS_SLOPE,  # its rise to full load
    LOG_MS_SD,  # standard deviation of that mean
    LOG_MS_NOISE,  # variance of one observation
    FASTER_USUAL,  # latency expected to the usual one, as a ratio
    LOG_PRICE,  # mean of log(charged/posted)
    EVIDENCE,  # outcomes behind the usual figures, after forgetting
) = range(25)
N_BELIEFS = 25

# Entries of `knobs`: the hyperparameters of every learning policy, in one array.
(
    FAST_S,  # half-lives
    SLOW_S,
    RELAX_S,  # half-life, without a new outcome, of what was sensed
    PRICE_S,  # the same of the last price charged
    SIBLINGS,  # what is known of the provider counts so much of what is believed of its offer
    PRIOR_SUCCESS,
    PRIOR_TRIES,
    FORGIVEN,  # part of the failures on record that happened when something was the matter
    DEGRADED,  # share of the time that an offer is degraded, if its record is as the prior
    DOWN,
    SUCCESS_DEGRADED,  # share of successes then
    SUCCESS_DOWN,
    LATENCY_TRIES,  # observations that "as advertised" counts as
    LOAD_SLOPE,  # prior mean of LOG_MS_SLOPE
    SLOWDOWN,  # rise of log-latency when degraded, about
    PRICE_TRIES,  # observations that the price before counts as
    BOLDNESS,  # share of decisions that are drawn from the beliefs, not taken by their means
    CONFIDENCE,  # outcomes at which a hybrid weighs the learned score as the rule's
    EPSILON,  # of Q-learning, now
    EPSILON_LEAST,
    EPSILON_KEPT,  # factor per decision learned from
    RATE,  # least learning rate
    DISCOUNT,
    REPLAYS,  # past experiences learned again with each new one
    Q_PRIOR,  # visits that the rule's expectation counts as
) = range(25)
N_KNOBS = 25

_LN2 = math.log(2.0)
LOG_LEAST, LOG_MOST = math.log(0.01), math.log(100.0)
"""One observation moves a sum of logarithms by no more than a hundredfold latency or price would."""
REFRESH_S = 0.25
_SLOWDOWN_VARIANCE = 0.09
_MOST_SD = 3.0
"""An observed latency speaks for or against trouble by no more than one so many standard deviations off."""
_LEAST_PROBABILITY = 1e-4
_SHIFT_GAIN = 0.15
_RELIEF = 0.5
"""Suspicion spreads among a provider's offers by ``SIBLINGS``, relief by so much of it: one of its models may well fail
while the others do not."""
_MOST_LOG = 60.0
"""Keeps exponentials finite."""
_NOISE_PRIOR, _NOISE_TRIES = 0.06, 4.0
"""Variance of log-latency before it is known, and what that counts as."""


@inlined
def _kept(scale: int, age_s: float, knobs: Floats) -> float:
    """What is left of a sum after ``age_s`` ≥ 0."""
    return math.exp(-_LN2 * age_s / knobs[FAST_S + scale])


@inlined
def take_in(
    slot: int,
    at: float,
    ended: bool,
    ok: bool,
    load: float,
    log_latency: float,
    log_price: float,
    sums: Floats,
    beliefs: Floats,
    knobs: Floats,
) -> None:
    """Add one outcome of event time ``at`` to the sums of ``slot``; NaN: that figure is not known.

    One that has not ``ended`` has only begun: its latency is known, its success is not. An outcome older than the sums
    enters with the weight that it would have by now, so the order does not matter.
    """
    age_s = at - beliefs[slot, SUMS_AT]
    if age_s > 0.0:
        for scale in range(N_SCALES):
            kept = _kept(scale, age_s, knobs)
            for column in range(N_SUMS):
                sums[slot, scale, column] *= kept
        beliefs[slot, SUMS_AT] = at
    for scale in range(N_SCALES):
        weight = _kept(scale, -age_s, knobs) if age_s < 0.0 else 1.0
        if ended:
            sums[slot, scale, TRIES] += weight
            sums[slot, scale, WINS] += weight if ok else 0.0
        if not ok:
            continue
        if not math.isnan(log_latency):
            y = min(max(log_latency, LOG_LEAST), LOG_MOST)
            sums[slot, scale, N_Y] += weight
            sums[slot, scale, X] += weight * load
            sums[slot, scale, XX] += weight * load * load
            sums[slot, scale, Y] += weight * y
            sums[slot, scale, XY] += weight * load * y
            sums[slot, scale, YY] += weight * y * y
        if ended and not math.isnan(log_price):
            sums[slot, scale, N_C] += weight
            sums[slot, scale, C] += weight * min(max(log_price, LOG_LEAST), LOG_MOST)


@inlined
def _success_of(matter: int, usual: float, knobs: Floats) -> float:
    """Share of successes when MILD + ``matter`` is the matter."""
    down = min(knobs[SUCCESS_DOWN], 0.5 * usual)
    clear = min(knobs[SUCCESS_DEGRADED], 0.9 * usual)
    if matter == 0:
        return float(0.5 * (usual + clear))
    if matter == 1:
        return float(clear)
    return float(0.5 * (down + clear)) if matter == 2 else float(down)


@inlined
def _often(usual: float, knobs: Floats) -> tuple[float, float]:
    """Shares of the time that an offer is degraded, and down: as its record, against what one expects, gives reason."""
    trouble = min(max((1.0 - usual) / ((1.0 - knobs[PRIOR_SUCCESS]) * (1.0 - knobs[FORGIVEN]) + 1e-9), 0.1), 4.0)
    return min(trouble * knobs[DEGRADED], 0.45), min(trouble * knobs[DOWN], 0.45)


@inlined
def _remembered(slot: int, now: float, beliefs: Floats, knobs: Floats) -> float:
    """What is left by ``now`` of what was sensed."""
    if beliefs[slot, SENSED_AT] == -math.inf:
        return 0.0
    return math.exp(-_LN2 * max(now - beliefs[slot, SENSED_AT], 0.0) / knobs[RELAX_S])


@inlined
def _relax(slot: int, now: float, usual: float, beliefs: Floats, knobs: Floats) -> None:
    """Time passes without an outcome: what was sensed tends to what is usual."""
    degraded, down = _often(usual, knobs)
    kept = _remembered(slot, now, beliefs, knobs)
    if beliefs[slot, SENSED_AT] == -math.inf:
        beliefs[slot, SHIFT] = knobs[SLOWDOWN]
    for matter in range(4):
        share = degraded / 3.0 if matter < 3 else down
        beliefs[slot, MILD + matter] = share + kept * (beliefs[slot, MILD + matter] - share)
    beliefs[slot, SENSED_AT] = max(now, beliefs[slot, SENSED_AT])


@inlined
def sense(slot: int, at: float, ended: bool, ok: bool, excess: float, own: int, beliefs: Floats, knobs: Floats) -> None:
    """Weigh what may be the matter by one outcome, or by the latency of one that has only begun.

    ``excess`` is the log-latency beyond the usual one (NaN: not known); ``own`` is the offer's slot, ``slot`` it or its
    provider's.
    """
    usual, noise = beliefs[own, AS_USUAL], max(beliefs[own, LOG_MS_NOISE], 1e-4)
    if beliefs[slot, SENSED_AT] < at:
        _relax(slot, at, usual, beliefs, knobs)
    slower = 1.0  # how much likelier such a latency is when degraded
    if ok and not math.isnan(excess):
        e, u = min(max(excess, -_MOST_SD * math.sqrt(noise)), 2.0), _SLOWDOWN_VARIANCE
        log_odds = e * e / noise - (e - knobs[SLOWDOWN]) ** 2 / (noise + u) + math.log(noise / (noise + u))
        slower = math.exp(min(0.5 * log_odds, _MOST_LOG))
    nothing = 1.0 - beliefs[slot, MILD] - beliefs[slot, CLEAR] - beliefs[slot, SEVERE] - beliefs[slot, FALLEN]
    total = max(nothing, _LEAST_PROBABILITY) * ((usual if ok else 1.0 - usual) if ended else 1.0)
    for matter in range(4):
        success = _success_of(matter, usual, knobs) if ended else 1.0
        likelihood = success * (slower if matter < 3 else 1.0) if ok else 1.0 - success
        beliefs[slot, MILD + matter] = max(beliefs[slot, MILD + matter], _LEAST_PROBABILITY) * likelihood
        total += beliefs[slot, MILD + matter]
    degraded = 0.0
    for matter in range(4):
        beliefs[slot, MILD + matter] /= total
        degraded += beliefs[slot, MILD + matter] if matter < 3 else 0.0
    if ok and not math.isnan(excess):
        seen = min(max(excess, -1.0), 2.0)
        beliefs[slot, SHIFT] += _SHIFT_GAIN * degraded * (seen - beliefs[slot, SHIFT])
        beliefs[slot, SHIFT] += 0.02 * (1.0 - degraded) * (knobs[SLOWDOWN] - beliefs[slot, SHIFT])


@inlined
def experience(
    own: int,
    group: int,
    at: float,
    ended: bool,
    ok: bool,
    load: float,
    log_latency: float,
    log_price: float,
    sums: Floats,
    beliefs: Floats,
    knobs: Floats,
) -> None:
    """Take in one outcome of the offer ``own`` of the provider ``group``: sense first, by what was usual until now."""
    refresh(own, group, at, sums, beliefs, knobs)
    excess = log_latency - beliefs[own, LOG_MS_USUAL] - load * beliefs[own, LOG_MS_SLOPE]
    sense(own, at, ended, ok, excess, own, beliefs, knobs)
    sense(group, at, ended, ok, excess, own, beliefs, knobs)
    take_in(own, at, ended, ok, load, log_latency, log_price, sums, beliefs, knobs)
    take_in(group, at, ended, ok, load, log_latency, log_price, sums, beliefs, knobs)
    beliefs[own, OUTCOMES] += 1.0
    beliefs[group, OUTCOMES] += 1.0


@inlined
def form(own: int, group: int, now: float, sums: Floats, beliefs: Floats, knobs: Floats) -> None:
    """Work the belief about the offer ``own``, of the provider ``group``, out of what was learned and sensed."""
    siblings = knobs[SIBLINGS]
    # ---- what is usual, from the slow sums, as they were at the last outcome of the provider
    last = max(beliefs[own, SUMS_AT], beliefs[group, SUMS_AT])
    kept = _kept(SLOW, last - beliefs[own, SUMS_AT], knobs) if beliefs[own, SUMS_AT] > -math.inf else 0.0
    tries, wins = sums[own, SLOW, TRIES] * kept, sums[own, SLOW, WINS] * kept
    n, y = sums[own, SLOW, N_Y] * kept, sums[own, SLOW, Y] * kept
    x, xx = sums[own, SLOW, X] * kept, sums[own, SLOW, XX] * kept
    xy, yy = sums[own, SLOW, XY] * kept, sums[own, SLOW, YY] * kept
    wins += siblings * (sums[group, SLOW, WINS] - wins)
    tries += siblings * (sums[group, SLOW, TRIES] - tries)
    beliefs[own, EVIDENCE] = tries
    record = (knobs[PRIOR_SUCCESS] * knobs[PRIOR_TRIES] + wins) / (knobs[PRIOR_TRIES] + tries)
    # The record has bad times in it; when nothing is the matter the offer does better.
    usual = min(max(record + knobs[FORGIVEN] * (1.0 - record), 0.01), 0.999)
    n0 = knobs[LATENCY_TRIES]
    a11, a22 = n + n0, xx + 0.25 * n0
    b2 = xy + 0.25 * n0 * knobs[LOAD_SLOPE]
    determinant = a11 * a22 - x * x
    level = (a22 * y - x * b2) / determinant
    slope = max((a11 * b2 - x * y) / determinant, 0.0)
    residual = yy - 2.0 * (level * y + slope * xy) + level**2 * n + 2.0 * level * slope * x + slope**2 * xx
    noise = (max(residual, 0.0) + _NOISE_PRIOR * _NOISE_TRIES) / (n + _NOISE_TRIES)

    # ---- what is the matter, of the offer and of its provider; what was sensed stays as it is until the next outcome
    often_degraded, often_down = _often(usual, knobs)
    kept_own, kept_group = _remembered(own, now, beliefs, knobs), _remembered(group, now, beliefs, knobs)
    trouble = of_provider = 0.0
    for matter in range(4):
        trouble += kept_own * beliefs[own, MILD + matter]
        of_provider += kept_group * beliefs[group, MILD + matter]
    usually = often_degraded + often_down
    worse = of_provider + (1.0 - kept_group) * usually > trouble + (1.0 - kept_own) * usually
    spread = siblings if worse else _RELIEF * siblings
    p_degraded = degraded = p_down = 0.0
    for matter in range(4):
        share = often_degraded / 3.0 if matter < 3 else often_down
        p = share + kept_own * (beliefs[own, MILD + matter] - share)
        p += spread * (share + kept_group * (beliefs[group, MILD + matter] - share) - p)
        if matter < 3:
            p_degraded += p
            degraded += p * _success_of(matter, usual, knobs)
        else:
            p_down = p
    degraded /= max(p_degraded, 1e-12)
    down = _success_of(3, usual, knobs)
    shift = beliefs[own, SHIFT] if beliefs[own, SENSED_AT] > -math.inf else knobs[SLOWDOWN]
    shift += spread * ((beliefs[group, SHIFT] if beliefs[group, SENSED_AT] > -math.inf else knobs[SLOWDOWN]) - shift)
    beliefs[own, SUCCESS] = (1.0 - p_degraded - p_down) * usual + p_degraded * degraded + p_down * down
    beliefs[own, AS_USUAL] = usual
    beliefs[own, AS_USUAL_SD] = math.sqrt(usual * (1.0 - usual) / (knobs[PRIOR_TRIES] + tries + 1.0))
    beliefs[own, IF_DEGRADED] = degraded
    beliefs[own, IF_DOWN] = down
    beliefs[own, P_DEGRADED] = p_degraded
    beliefs[own, P_DOWN] = p_down
    beliefs[own, LOG_MS] = level + p_degraded * shift
    beliefs[own, LOG_MS_USUAL] = level
    beliefs[own, FASTER_USUAL] = math.exp(p_degraded * shift)
    beliefs[own, LOG_MS_SLOPE] = slope
    beliefs[own, LOG_MS_NOISE] = noise
    beliefs[own, LOG_MS_SD] = math.sqrt(noise / a11)

    # ---- what will it charge
    n, c = sums[own, SLOW, N_C], sums[own, SLOW, C]
    before = c / (n + knobs[PRICE_TRIES])
    n, c = sums[own, FAST, N_C], sums[own, FAST, C]
    known = 0.0
    if beliefs[own, SUMS_AT] > -math.inf:
        known = math.exp(-_LN2 * max(now - beliefs[own, SUMS_AT], 0.0) / knobs[PRICE_S])
    beliefs[own, LOG_PRICE] = known * (c + knobs[PRICE_TRIES] * before) / (n + knobs[PRICE_TRIES])
    beliefs[own, AS_OF] = now
    beliefs[own, FORMED_FOR] = beliefs[group, OUTCOMES]


@inlined
def refresh(own: int, group: int, now: float, sums: Floats, beliefs: Floats, knobs: Floats) -> None:
    """``form`` the belief, unless it is of ``now`` or a moment ago already, and there is no news of the provider."""
    fresh = 0.0 <= now - beliefs[own, AS_OF] <= REFRESH_S
    if not fresh or beliefs[own, FORMED_FOR] != beliefs[group, OUTCOMES]:
        form(own, group, now, sums, beliefs, knobs)


@inlined
def predicted_ms(log_ms: float, slot: int, posted_ms: float, load: float, beliefs: Floats) -> float:
    """The latency at ``load`` (ms), such that a ratio to it has the right mean."""
    log_ratio = log_ms + load * beliefs[slot, LOG_MS_SLOPE] - 0.5 * beliefs[slot, LOG_MS_NOISE]
    return float(posted_ms * math.exp(min(max(log_ratio, -_MOST_LOG), _MOST_LOG)))


@compiled(
    "void(int64, int64, float64, boolean, boolean, float64, float64, float64, float64[:, :, ::1], float64[:, ::1],"
    " float64[::1])"
)
def learn(
    own: int,
    group: int,
    at: float,
    ended: bool,
    ok: bool,
    load: float,
    log_latency: float,
    log_price: float,
    sums: Floats,
    beliefs: Floats,
    knobs: Floats,
) -> None:
    """See ``experience``."""
    experience(own, group, at, ended, ok, load, log_latency, log_price, sums, beliefs, knobs)
