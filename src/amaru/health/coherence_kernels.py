"""Coherence: do an offer's answers keep the shape and the distribution that they had?

1 minus each part's weight times its distance in [0, 1], multiplied over the parts. A distance compares the last answers
(``RECENT`` of them) with the usual ones, in standard errors or shares, behind a dead zone that what is ordinary stays
in. Three parts are also held against what no answers should be, whatever was usual: empty, the same to everybody,
repeating themselves. So they tell of an offer that nothing is known of yet, and are never learned as usual beyond a
bound. The others depend on what is asked too, so they weigh less and become usual in time.

While an offer is incoherent its usual figures learn by time alone, slowly (``ACCEPTED_S``), and not at all from answers
that are bad by themselves.
"""

from __future__ import annotations

import math

from amaru.compiling import compiled, inlined
from amaru.health import row_kernels as r

(EMPTINESS, SAMENESS, SAMENESS_SHORT, REPEATING, SHAPE, FINISHING, LENGTHS, SPEEDS) = range(8)
N_PARTS = 8
WEIGHTS = (1.0, 1.0, 0.9, 1.0, 0.6, 0.3, 0.4, 0.2)
"""How much of coherence each part can take away by itself."""

MOST_EMPTY, MOST_SAME = 0.2, 0.3
"""A larger share of such answers is never usual."""
TEACHABLE = 0.3
"""Such an answer is taken as usual only while fewer than this share of the last ones were so: scattered, not in a run.
"""
TOLERANCE = 0.05
SHARE_ERRORS = 1.5
"""Standard errors of a usual share within which it stays usual."""
ORDINARY_SD, SPAN_SD = 1.2, 3.0
"""A mean of the last answers may be off by so many sd; so many more, and the distance is 1."""
REPEATS_MUCH, REPEATS_SPAN = 0.45, 0.25
"""Mean share of repeated 4-grams from which on, and over which, the distance grows to 1, whatever was usual."""
BAD_REPETITION = 0.8
CATEGORY_RATIO, CATEGORY_TOLERANCE = 3.0, 0.15
"""A finish reason may be so many times as frequent as usual, and this and two standard errors more."""
DRAWN = 0.75
"""Answers, as they should be, that the last ones are thought to be joined by; twice as many for a new offer."""
YOUNG = 20.0
"""Answers until what is usual stands as firmly as what is seen."""
SETTLED = 10.0
NEW_FOR_S = 1800.0
"""A shape is new for so long after it was first seen, in own time."""
LEARNING_S = 300.0
"""In the first minutes of an offer no shape is new."""
_FIRM, _LOOSE = 0.92, 0.8
"""Coherence at which answers teach what is usual without restraint, and with the most."""


@inlined
def _part(x: float) -> float:
    return min(max(x, 0.0), 1.0)


@inlined
def _share(slot: int, track: int, tracks: r.Floats) -> float:
    """Of the last answers, drawn towards 0: more where little is known of the offer."""
    weight = tracks[slot, track, r.R_WEIGHT]
    drawn = DRAWN * (1.0 + YOUNG / (YOUNG + tracks[slot, track, r.U_WEIGHT]))
    return float(tracks[slot, track, r.R_MEAN] * weight / (weight + drawn))


@inlined
def _firmness(slot: int, track: int, tracks: r.Floats) -> float:
    weight = tracks[slot, track, r.U_WEIGHT]
    return float(weight / (weight + SETTLED))


@inlined
def _error(usual: float) -> float:
    """Standard error of a share among the last answers."""
    return math.sqrt(usual * (1.0 - usual) / (2.0 * r.RECENT - 1.0))


@inlined
def _excess(slot: int, track: int, most: float, tracks: r.Floats) -> float:
    """How far the share of such answers is above the usual one, of all that it could be."""
    usual = min(tracks[slot, track, r.U_MEAN] * _firmness(slot, track, tracks), most)
    usual = _part(usual)
    ordinary = min(1.5 * usual + SHARE_ERRORS * _error(usual) + TOLERANCE, 0.95)
    return _part((_share(slot, track, tracks) - ordinary) / (1.0 - ordinary))


@inlined
def _shift(slot: int, track: int, tracks: r.Floats) -> float:
    """Mean of the last answers minus the usual one, in sd of one answer, drawn towards 0 where little is known."""
    weight = tracks[slot, track, r.R_WEIGHT]
    off = (tracks[slot, track, r.R_MEAN] - tracks[slot, track, r.U_MEAN]) / r.usual_sd(slot, track, tracks)
    return float(off * weight / (weight + 1.0) * _firmness(slot, track, tracks))


@inlined
def distance(part: int, slot: int, tracks: r.Floats) -> float:
    """Of one part, in [0, 1]; 0 is as usual."""
    if part == EMPTINESS:
        return _excess(slot, r.EMPTY, MOST_EMPTY, tracks)
    if part == SAMENESS:
        return _excess(slot, r.SAME, MOST_SAME, tracks)
    if part == SAMENESS_SHORT:  # "yes" to all is usual for some, so without a past it tells nothing
        return _excess(slot, r.SAME_SHORT, 1.0, tracks) * _firmness(slot, r.SAME_SHORT, tracks)
    if part == REPEATING:
        usual = tracks[slot, r.REPETITION, r.U_MEAN]
        much = max(REPEATS_MUCH, min(usual + REPEATS_SPAN, 1.0))
        absolute = _part((_share(slot, r.REPETITION, tracks) - much) / REPEATS_SPAN)
        return max(absolute, _part((_shift(slot, r.REPETITION, tracks) - ORDINARY_SD) / SPAN_SD))
    if part == SHAPE:
        return _excess(slot, r.CHANGED, 1.0, tracks)
    if part == FINISHING:
        more = 0.0
        for track in range(r.FINISH, r.FINISH + r.N_CATEGORIES):
            usual = tracks[slot, track, r.U_MEAN]
            ordinary = CATEGORY_RATIO * usual + 2.0 * _error(_part(usual)) + CATEGORY_TOLERANCE
            more += max(_share(slot, track, tracks) - ordinary, 0.0)
        return _part(more * _firmness(slot, r.FINISH, tracks) / (1.0 - CATEGORY_TOLERANCE))
    track = r.LENGTH if part == LENGTHS else r.SPEED
    return _part((abs(_shift(slot, track, tracks)) - ORDINARY_SD) / SPAN_SD)


@inlined
def coherence(slot: int, tracks: r.Floats) -> float:
    """Of the last answers, in [0, 1]."""
    left = 1.0
    for part in range(N_PARTS):
        left *= 1.0 - WEIGHTS[part] * distance(part, slot, tracks)
    return left


@inlined
def relaxed(slot: int, now: float, figures: r.Floats) -> float:
    """The coherence at ``now``: what was found fades while nothing is asked."""
    if figures[slot, r.LAST_ANSWER] == -math.inf:
        return 1.0
    return float(1.0 - (1.0 - figures[slot, r.COHERENCE]) * r.kept(now - figures[slot, r.LAST_ANSWER], r.RELAX_S))


@inlined
def trust_in(coherent: float) -> float:
    """In the next answer, to teach what is usual."""
    return _part((coherent - _LOOSE) / (_FIRM - _LOOSE))


@inlined
def is_new_shape(slot: int, shape: int, figures: r.Floats, marks: r.Ints) -> bool:
    """Whether this shape is not one of the usual; it is noted as seen. The one seen longest ago makes room."""
    own_s = figures[slot, r.OWN_S]
    place = 0
    for other in range(r.N_SHAPES):
        if marks[slot, r.SHAPES + other] == shape:
            figures[slot, r.SHAPE_SEEN + other] = own_s
            since = figures[slot, r.SHAPE_SINCE + other]
            return bool(since > LEARNING_S and own_s - since < NEW_FOR_S)
        if marks[slot, r.SHAPES + place] != 0 and (
            marks[slot, r.SHAPES + other] == 0
            or figures[slot, r.SHAPE_SEEN + other] < figures[slot, r.SHAPE_SEEN + place]
        ):
            place = other
    marks[slot, r.SHAPES + place] = shape
    figures[slot, r.SHAPE_SINCE + place] = own_s
    figures[slot, r.SHAPE_SEEN + place] = own_s
    return bool(own_s > LEARNING_S)


@inlined
def was_said_before(slot: int, text: int, prompt: int, figures: r.Floats, marks: r.Ints) -> bool:
    """Whether one of the last texts was this one, to another prompt; it is noted."""
    found = False
    for place in range(r.N_TEXTS):
        if marks[slot, r.TEXTS + place] == text and marks[slot, r.PROMPTS + place] != prompt:
            found = True
    place = int(figures[slot, r.RING]) % r.N_TEXTS
    marks[slot, r.TEXTS + place] = text
    marks[slot, r.PROMPTS + place] = prompt
    figures[slot, r.RING] = float(place + 1)
    return found


@inlined
def _judge(slot: int, track: int, x: float, trust: float, own_s: float, tracks: r.Floats) -> None:
    r.add_recent(slot, track, x, tracks)
    r.learn_usual(slot, track, x, trust, own_s, tracks)


@inlined
def _judge_bounded(slot: int, track: int, bad: bool, trust: float, own_s: float, tracks: r.Floats) -> None:
    """As ``_judge``, of what must not become usual by coming in a run."""
    x = 1.0 if bad else 0.0
    r.add_recent(slot, track, x, tracks)
    if not bad or _share(slot, track, tracks) < TEACHABLE:
        r.learn_usual(slot, track, x, trust, own_s, tracks)


@inlined
def fade(slot: int, at: float, figures: r.Floats, tracks: r.Floats) -> None:
    """Time passes up to the next answer: the last ones count less against it."""
    if figures[slot, r.LAST_ANSWER] > -math.inf:
        left = r.kept(at - figures[slot, r.LAST_ANSWER], r.RELAX_S)
        for track in range(r.N_TRACKS):
            tracks[slot, track, r.R_WEIGHT] *= left


@inlined
def malformed(slot: int, at: float, figures: r.Floats, tracks: r.Floats) -> None:
    """An answer came that could not be read."""
    fade(slot, at, figures, tracks)
    _judge(slot, r.CHANGED, 1.0, trust_in(figures[slot, r.COHERENCE]), figures[slot, r.OWN_S], tracks)
    figures[slot, r.COHERENCE] = coherence(slot, tracks)
    figures[slot, r.LAST_ANSWER] = figures[slot, r.AT]


@inlined
def answered(
    slot: int,
    at: float,
    generated: bool,
    empty: float,
    tokens: float,
    finish: int,
    sampled: bool,
    shape: int,
    lacking: bool,
    repetition: float,
    text: int,
    prompt: int,
    long: bool,
    figures: r.Floats,
    tracks: r.Floats,
    marks: r.Ints,
) -> bool:
    """Judge one answer; returns whether it may teach what is usual of its time, too.

    ``generated``: it should hold generated text, and as many ``tokens``; ``empty``: 0, 1 or NaN, where that is not
    known. From ``shape`` on only where it was ``sampled``; hashes are 0 where not known.
    """
    fade(slot, at, figures, tracks)
    own_s = figures[slot, r.OWN_S]
    trust = trust_in(figures[slot, r.COHERENCE])
    bad = empty == 1.0
    if sampled:
        new = shape != 0 and is_new_shape(slot, shape, figures, marks)
        if shape != 0 or lacking:
            _judge(slot, r.CHANGED, 1.0 if new or lacking else 0.0, trust, own_s, tracks)
    if generated:
        if empty == empty:
            _judge_bounded(slot, r.EMPTY, bad, trust, own_s, tracks)
        if sampled and text != 0:
            if prompt != 0:
                same = was_said_before(slot, text, prompt, figures, marks)
                _judge_bounded(slot, r.SAME, same and long, trust, own_s, tracks)
                _judge(slot, r.SAME_SHORT, 1.0 if same and not long else 0.0, trust, own_s, tracks)
                bad = bad or (same and long)
            r.add_recent(slot, r.REPETITION, repetition, tracks)
            if repetition <= BAD_REPETITION:
                r.learn_usual(slot, r.REPETITION, repetition, trust, own_s, tracks)
            else:
                bad = True
        for track in range(r.N_TRACKS):
            if track == r.LENGTH or track >= r.FINISH:
                x = 1.0 if track - r.FINISH == finish else 0.0
                x = math.log1p(tokens) if track == r.LENGTH else x
                r.add_recent(slot, track, x, tracks)
                if not bad:
                    r.learn_usual(slot, track, x, trust, own_s, tracks)
    figures[slot, r.COHERENCE] = coherence(slot, tracks)
    figures[slot, r.LAST_ANSWER] = figures[slot, r.AT]
    return not bad


@compiled("void(int64, float64, float64[:, ::1], float64[:, :, ::1], float64[::1])")
def distances(slot: int, now: float, figures: r.Floats, tracks: r.Floats, out: r.Floats) -> None:
    """Each part's distance at ``now`` into ``out`` [N_PARTS]."""
    left = r.kept(now - figures[slot, r.LAST_ANSWER], r.RELAX_S) if figures[slot, r.LAST_ANSWER] > -math.inf else 0.0
    for part in range(N_PARTS):
        out[part] = left * distance(part, slot, tracks)
