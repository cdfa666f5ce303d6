"""Change detection for every offer and signal: compiled, constant memory, a few hundred nanoseconds a signal.

Each signal is a mixture of Shiryaev-Roberts statistics, in the form of e-detectors (Shin, Ramdas, Rinaldo,
*E-detectors: a nonparametric framework for sequential change detection*, 2023):

    R_n = (R_{n-1} + w_n) · L_n,        w_n = seconds since the observation before, at most ``MOST_GAP_S``

where ``L_n`` is an e-value: non-negative, of mean at most 1 while nothing has changed. ``R_n`` minus the time passed is
then a supermartingale, so an alarm at ``R ≥ A`` comes in the mean not before ``A`` *seconds* of calm, however many
observations a second there are and whenever one looks. ``A`` is set from the budget of false alarms.

- Yes-or-no signals (errors and so on): ``L`` is the likelihood ratio of a rate ``p1`` against ``p0``, which is an upper
  bound on what is usual; for every rate up to ``p0`` its mean is at most 1. A grid of ``p1``.
- Continuous signals (log-latency and so on): ``z`` is the residual from what is usual for so many tokens at such a
  load, in standard deviations, held within ``MOST_Z``; ``L = exp(λ(z-μ) - λ²v/2)``, of mean at most 1 where z is
  sub-Gaussian with mean up to ``μ`` and variance up to ``v``. ``μ`` grows with how far the mean of half a minute
  usually wanders, so that slow noise is no change. A grid of ``λ``.

Observations that follow within ``SLOT_S`` of each other share one slot, whose ``L`` is their geometric mean (again an
e-value, by Jensen's inequality): a thousand failures in one second are no more independent than two.

What is usual is kept as sums decayed by event time, and held still while an alarm is on or seems to be coming. Of
continuous signals it is a regression on the logarithm of tokens, robust because residuals are held within three
standard deviations, and, of what that leaves, one on the square of the offer's load: where amaru itself sends more to
an offer because others are ill, its answers take longer and it is well. Of yes-or-no signals it is a rate, to which
each slot counts once, as it does as evidence, and only after ``LAG`` more: a burst of failures is usual only if what
follows it is not as bad.

A change is over when as much evidence says so: ``OVER`` is the likelihood ratio of what is usual against how ill the
offer has been since (``ILL``), a cumulative sum over slots (Page 1954). After a hard failure a handful of successes are
enough; after a few failures in a hundred, dozens are needed.
"""

from __future__ import annotations

import math

from amaru.compiling import compiled, inlined
from amaru.routing.kernels import Floats

(LATENCY, FIRST_TOKEN, REPETITION, ERRORS, ODD, SHAPE, NOVELTY, REFUSED) = range(8)
N_SIGNALS, N_CONTINUOUS = 8, 3

N_BETS = 4
(
    N,  # decayed sums of what is usual: weight, then x, x², y, xy, y² (yes-or-no: y only)
    X,
    XX,
    Y,
    XY,
    YY,
    W,  # decayed sums of load, of its squared distance from the mean, and of that distance times the residual
    WW,
    WR,
    AT,  # of the last observation
    SLOT_AT,  # when the current slot began
    SLOT_N,
    SLOT_SUM,  # of z, or of y
    SLOT_W,  # seconds that it adds
    FAST,  # mean of z (or y) lately, by count
    FAST_N,  # observations behind it
    BLOCK_AT,  # half a minute, whose mean wanders; yes-or-no: of slots that are not yet usual
    BLOCK_N,
    BLOCK_SUM,
    WANDER,  # variance of those means beyond what independent noise gives
    ALARM,  # when R first reached A; NaN: it has not
    OVER,  # logarithm of the evidence that the change is over
    OVER_BEFORE,  # that before the current slot
    ILL,  # mean of slots since the alarm, until the last bad one
    RUN,  # good slots since that one
    P0,  # upper bound of the usual rate, or μ, as of the last observation
    SD,  # of continuous signals, as of the last observation
    RAW,  # mean of the residual lately, in units of y, by count
    SEEN,  # observations, ever
    PEAK,  # the largest logarithm of R since the alarm
    BEFORE,  # N_BETS columns: R before the current slot
) = range(31)
NOW = BEFORE + N_BETS  # N_BETS columns: R
N_COLUMNS = NOW + N_BETS

MOST_GAP_S = 60.0
SLOT_S = 0.5
BLOCK_S = 30.0
MOST_Z = 3.0
VARIANCE = 1.25
"""``v``: a little more than that of a standardised residual."""
LEAST_MU, MOST_MU, MU, WANDERS = 0.25, 1.5, 0.2, 2.0
"""μ = MU + WANDERS · standard deviation of the wandering, within bounds."""
RATE_FACTOR = 2.5
"""p0 is so many times the usual rate, and at least ``least_p0``."""
PRIOR = 20.0
"""What is expected of an unknown offer counts as so many slots."""
LAG = 10.0
"""Slots, and ``BLOCK_S``, that pass before one counts as usual: by then a change would be suspected."""
WARM = 40.0
"""Observations before continuous signals may alarm."""
LOAD_SLOPE, LOAD_PRIOR = 0.5, 0.5
"""By how much the logarithm of a time is expected to grow from no load to a full one, and how much of squared load seen
that counts as: the variance of a residual over that of such slopes."""
MOST_USUAL = 3000.0
"""Weight of what is usual, in observations."""
FAST_GAIN = 0.15
SUSPICION = 0.35
"""From this share of the way to an alarm on (in logarithms) nothing is learned about what is usual."""
LEAST_ILL, MOST_ILL = 0.2, 0.85
"""Share of the way from p0 to 1 that an illness is taken to be at least, and the largest rate it is taken to have."""
LEAST_WORSE, MOST_WORSE = 0.75, 1.5
"""The same of continuous signals, in standard deviations above μ."""
ILL_GAIN, MOST_OVER = 0.05, 100.0
MOST_R = 1e30
LEAST_MS, MOST_MS, MOST_TOKENS = 0.1, 1e8, 1e9
_LN2 = math.log(2.0)


@inlined
def share_of(k: int) -> float:
    """Where between p0 and 1 the rate lies that bet ``k`` is on."""
    return 0.06 if k == 0 else 0.2 if k == 1 else 0.5 if k == 2 else 0.9


@inlined
def _bet(k: int, binary: bool, value: float, p0: float) -> float:
    """Logarithm of the e-value of bet ``k`` on one observation; ``p0``: μ where not binary."""
    if binary:
        p1 = p0 + (1.0 - p0) * share_of(k)
        return math.log(p1 / p0) * value + math.log((1.0 - p1) / (1.0 - p0)) * (1.0 - value)
    rate = 0.3 if k == 0 else 0.6 if k == 1 else 1.0 if k == 2 else 1.6
    return rate * (value - p0) - 0.5 * rate * rate * VARIANCE


@inlined
def least_p0(s: int) -> float:
    """The smallest rate that a yes-or-no signal's usual one is bounded by; half of it is expected beforehand.

    Failures come in blips of seconds, and a new shape now and then. Bodies that cannot be read, or lack what every
    answer has, are practically never seen in calm: three of them tell. Callers who ask for what no provider
    would do come in spells.
    """
    return 0.001 if s == SHAPE else 0.005 if s == ODD else 0.01 if s == ERRORS else 0.1 if s == REFUSED else 0.02


@inlined
def usual_rate(row: int, s: int, c: Floats) -> float:
    """Of a yes-or-no signal."""
    rate: float = (c[row, s, Y] + 0.5 * least_p0(s) * PRIOR) / (c[row, s, N] + PRIOR)
    return rate


@inlined
def _for_its_end(row: int, s: int, mean: float, p0: float, c: Floats) -> float:
    """Logarithm of the likelihood ratio of what is usual against the illness, on the mean of one slot."""
    if s >= N_CONTINUOUS:
        ill = max(min(c[row, s, ILL], MOST_ILL), p0 + LEAST_ILL * (1.0 - p0))
        return mean * math.log(p0 / ill) + (1.0 - mean) * math.log((1.0 - p0) / (1.0 - ill))
    worse: float = min(max(c[row, s, ILL] - p0, LEAST_WORSE), MOST_WORSE)
    return -worse / VARIANCE * (mean - p0 - 0.5 * worse)


@inlined
def _usual(row: int, s: int, x: float, c: Floats) -> tuple[float, float]:
    """Usual value at ``x``, and the standard deviation of residuals, for a continuous signal."""
    n, least = c[row, s, N], 0.02 if s == REPETITION else 0.1
    if n <= 0.0:
        return 0.0, 1.0
    mx, my = c[row, s, X] / n, c[row, s, Y] / n
    vx = max(c[row, s, XX] / n - mx * mx, 0.0)
    cov, vy = c[row, s, XY] / n - mx * my, max(c[row, s, YY] / n - my * my, 0.0)
    slope = cov / (vx + 0.05) if n >= 10.0 else 0.0
    slope = min(max(slope, 0.0), 1.2)  # more tokens never take less time, nor more than in proportion
    spread = vy - 2.0 * slope * cov + slope * slope * vx
    return my + slope * (x - mx), math.sqrt(max(spread, least * least))


@inlined
def _by_load(row: int, s: int, load: float, c: Floats) -> float:
    """What this load adds to what is usual at any. Never less for more; what is believed beforehand counts too."""
    if c[row, s, N] <= 0.0:
        return 0.0
    slope: float = max((c[row, s, WR] + LOAD_PRIOR * LOAD_SLOPE) / (c[row, s, WW] + LOAD_PRIOR), 0.0)
    return slope * (load * load - float(c[row, s, W] / c[row, s, N]))


@inlined
def _wander(row: int, s: int, at: float, z: float, c: Floats) -> None:
    """Half minutes: how far their means usually lie from 0, beyond what independent noise gives."""
    if abs(at - c[row, s, BLOCK_AT]) >= BLOCK_S:
        n = c[row, s, BLOCK_N]
        if n >= 4.0:
            mean = c[row, s, BLOCK_SUM] / n
            beyond = min(mean * mean - 1.0 / n, 1.0)
            c[row, s, WANDER] += 0.02 * (beyond - c[row, s, WANDER])
        c[row, s, BLOCK_AT] = at
        c[row, s, BLOCK_N] = c[row, s, BLOCK_SUM] = 0.0
    c[row, s, BLOCK_N] += 1.0
    c[row, s, BLOCK_SUM] += z


@inlined
def _kept(row: int, s: int, elapsed_s: float, half_life_s: float, c: Floats) -> float:
    """What is left of what is usual; an offer that was idle for days is still known as if by ``WARM`` observations."""
    kept, n = math.exp(-_LN2 * elapsed_s / half_life_s), c[row, s, N]
    return max(kept, min(WARM / n, 1.0)) if n > 0.0 else kept


@inlined
def _forget(row: int, s: int, elapsed_s: float, half_life_s: float, more: float, c: Floats) -> None:
    """Let what is usual fade, to no more than ``MOST_USUAL`` with ``more``."""
    kept = _kept(row, s, elapsed_s, half_life_s, c)
    if c[row, s, N] * kept + more > MOST_USUAL:
        kept = (MOST_USUAL - more) / c[row, s, N]
    for column in range(N, WR + 1):
        c[row, s, column] *= kept


@inlined
def _learn(row: int, s: int, x: float, load: float, y: float, r: float, c: Floats) -> None:
    """Take ``y`` at ``x`` and a load into what is usual, of a continuous signal; ``r`` is what tokens leave of it."""
    c[row, s, N] += 1.0
    c[row, s, W] += load * load
    off = load * load - c[row, s, W] / c[row, s, N]
    c[row, s, WW] += off * off
    c[row, s, WR] += off * r
    c[row, s, X] += x
    c[row, s, XX] += x * x
    c[row, s, Y] += y
    c[row, s, XY] += x * y
    c[row, s, YY] += y * y


@inlined
def _suspicious(row: int, s: int, least_rise: float, log_a: float, c: Floats) -> bool:
    """A change that matters seems to be coming."""
    total = 0.0
    for k in range(N_BETS):
        total += c[row, s, NOW + k]
    return c[row, s, RAW] >= least_rise and total > 0.0 and math.log(total) >= SUSPICION * log_a


@inlined
def _close_slot(
    row: int, s: int, at: float, elapsed_s: float, least_rise: float, log_a: float, half_life_s: float, c: Floats
) -> None:
    """What the slot that is over teaches: how ill the offer is while an alarm is on, else what is usual."""
    if c[row, s, SLOT_N] == 0.0:
        return
    mean = c[row, s, SLOT_SUM] / c[row, s, SLOT_N]
    if not math.isnan(c[row, s, ALARM]):
        if _for_its_end(row, s, mean, c[row, s, P0], c) > 0.0:
            c[row, s, RUN] += 1.0
        else:  # the good ones before it belonged to the illness
            c[row, s, ILL] *= math.pow(1.0 - ILL_GAIN, c[row, s, RUN])
            c[row, s, ILL] += ILL_GAIN * (mean - c[row, s, ILL])
            c[row, s, RUN] = 0.0
    elif s >= N_CONTINUOUS:
        if c[row, s, BLOCK_N] == 0.0:
            c[row, s, BLOCK_AT] = c[row, s, SLOT_AT]
        c[row, s, BLOCK_N] += 1.0
        c[row, s, BLOCK_SUM] += mean
        enough = c[row, s, BLOCK_N] >= LAG and abs(at - c[row, s, BLOCK_AT]) >= BLOCK_S
        if enough and not _suspicious(row, s, least_rise, log_a, c):
            more = min(c[row, s, BLOCK_N], MOST_USUAL)
            _forget(row, s, elapsed_s, half_life_s, more, c)
            c[row, s, N] += more
            c[row, s, Y] += c[row, s, BLOCK_SUM] * more / c[row, s, BLOCK_N]
            c[row, s, BLOCK_N] = c[row, s, BLOCK_SUM] = 0.0
        else:
            _forget(row, s, elapsed_s, half_life_s, 0.0, c)


@inlined
def step(
    row: int,
    s: int,
    at: float,
    x: float,
    load: float,
    y: float,
    least_rise: float,
    log_a: float,
    half_life_s: float,
    c: Floats,
) -> float:
    """Take one observation ``y`` of signal ``s`` into ``c[row]``, and return its z (or y).

    ``x`` and ``load`` explain continuous ones. ``least_rise``: how much ``y`` must have risen, in its own units, for a
    change to matter.
    """
    binary = s >= N_CONTINUOUS
    first = c[row, s, SEEN] == 0.0
    elapsed_s = 0.0 if first else max(at - c[row, s, AT], 0.0)
    if first or abs(at - c[row, s, SLOT_AT]) >= SLOT_S:
        _close_slot(row, s, at, max(at - c[row, s, SLOT_AT], 0.0), least_rise, log_a, half_life_s, c)
        for k in range(N_BETS):
            c[row, s, BEFORE + k] = c[row, s, NOW + k]
        c[row, s, OVER_BEFORE] = c[row, s, OVER]
        c[row, s, SLOT_AT] = at
        c[row, s, SLOT_N] = c[row, s, SLOT_SUM] = 0.0
        c[row, s, SLOT_W] = SLOT_S if first else min(elapsed_s, MOST_GAP_S)
    if binary:
        rate = usual_rate(row, s, c)
        p0 = min(max(RATE_FACTOR * rate, least_p0(s)), 0.9)
        sd, value, off, warm = 1.0, y, y - rate, True
    else:
        usual, sd = _usual(row, s, x, c)
        loaded = _by_load(row, s, load, c)
        off = y - usual - loaded
        value = min(max(off / sd, -MOST_Z), MOST_Z)
        warm = c[row, s, SEEN] >= WARM
        p0 = MU + WANDERS * math.sqrt(max(c[row, s, WANDER], 0.0))
        p0 = min(max(p0, LEAST_MU), MOST_MU)
        if not warm:
            value = 0.0
    c[row, s, P0], c[row, s, SD] = p0, sd
    c[row, s, SEEN] += 1.0
    # ---- lately
    c[row, s, FAST_N] = min(c[row, s, FAST_N] + 1.0, 1e6)
    gain = max(FAST_GAIN, 1.0 / c[row, s, FAST_N])
    c[row, s, FAST] += gain * (value - c[row, s, FAST])
    held = off if binary else min(max(off, -2.0 * MOST_Z * sd), 2.0 * MOST_Z * sd) if warm else 0.0
    c[row, s, RAW] += gain * (held - c[row, s, RAW])
    # ---- evidence
    c[row, s, SLOT_N] += 1.0
    c[row, s, SLOT_SUM] += value
    mean = c[row, s, SLOT_SUM] / c[row, s, SLOT_N]
    total, best = 0.0, 0
    for k in range(N_BETS):
        r = (c[row, s, BEFORE + k] + c[row, s, SLOT_W] / N_BETS) * math.exp(_bet(k, binary, mean, p0))
        c[row, s, NOW + k] = min(r, MOST_R) if warm else 0.0
        total += c[row, s, NOW + k]
        if c[row, s, NOW + k] > c[row, s, NOW + best]:
            best = k
    if math.isnan(c[row, s, ALARM]):
        if total > 0.0 and math.log(total) >= log_a:
            if c[row, s, RAW] >= least_rise:
                c[row, s, ALARM], c[row, s, PEAK] = at, math.log(total)
                c[row, s, OVER] = c[row, s, OVER_BEFORE] = c[row, s, RUN] = 0.0
                c[row, s, ILL] = p0 + (1.0 - p0) * share_of(best) if binary else max(mean, c[row, s, FAST])
                if binary:
                    c[row, s, BLOCK_N] = c[row, s, BLOCK_SUM] = 0.0
            else:  # a change that nobody minds: keep it at the threshold
                for k in range(N_BETS):
                    c[row, s, NOW + k] *= math.exp(log_a) / total
    else:
        c[row, s, PEAK] = max(c[row, s, PEAK], math.log(max(total, 1e-300)))
        over = c[row, s, OVER_BEFORE] + _for_its_end(row, s, mean, p0, c)
        c[row, s, OVER] = min(max(over, 0.0), MOST_OVER)
    # ---- what is usual
    if not binary and (not warm or (math.isnan(c[row, s, ALARM]) and not _suspicious(row, s, least_rise, log_a, c))):
        if warm:
            _wander(row, s, at, value, c)
            off = min(max(off, -MOST_Z * sd), MOST_Z * sd)
            y = usual + loaded + off
        _forget(row, s, elapsed_s, half_life_s, 1.0, c)
        _learn(row, s, x, load, y, off + loaded, c)
    c[row, s, AT] = at
    return value


@inlined
def _log_ms(ms: float) -> float:
    """NaN where there is none."""
    return math.log(min(max(ms, LEAST_MS), MOST_MS)) if ms > 0.0 else math.nan


@inlined
def _log_tokens(tokens: float) -> float:
    return math.log1p(min(max(tokens, 0.0), MOST_TOKENS))


@compiled(
    "float64(int64, float64, float64, float64, float64, float64, float64, float64, float64, float64, float64, float64,"
    " float64, float64[::1], float64, float64, float64[:, :, ::1])"
)
def observe(
    row: int, at: float, latency_ms: float, output_tokens: float, first_token_ms: float, input_tokens: float,
    load: float, repetition: float, error: float, odd: float, shape: float, novelty: float, refused: float,
    least_rise: Floats, log_a: float, half_life_s: float, c: Floats,
) -> float:  # fmt: skip
    """Take in one attempt; NaN: it says nothing of that, and a time of 0 as well. The last five are 0 or 1, and load is
    the share of the offer's capacity that was taken.

    Returns how slow it was: the z of its latency or first token, whichever is larger; NaN where neither is known.
    """
    slow = math.nan
    for s in range(N_SIGNALS):
        x = w = 0.0
        if s == LATENCY:
            x, w, y = _log_tokens(output_tokens), load, _log_ms(latency_ms)
        elif s == FIRST_TOKEN:
            x, w, y = _log_tokens(input_tokens), load, _log_ms(first_token_ms)
        elif s == REPETITION:
            y = min(max(repetition, 0.0), 1.0) if not math.isnan(repetition) else math.nan
        else:
            y = error if s == ERRORS else odd if s == ODD else shape if s == SHAPE else novelty
            y = refused if s == REFUSED else y
        if not math.isnan(y):
            z = step(row, s, at, x, w, y, least_rise[s], log_a, half_life_s, c)
            if s in (LATENCY, FIRST_TOKEN) and not slow >= z:
                slow = z
    return slow
