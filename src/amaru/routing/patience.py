"""How long to wait for an offer while another could take over: learned from how long it takes when it does answer.

Waits are spread about log-normally, so an offer's are kept as mean and variance of their logarithms, decayed by count
and by event time (Welford's recurrence with a bounded weight; Finch, *Incremental calculation of weighted mean and
variance*, 2009). The limit is the largest of three figures: the mean and ``DEVIATIONS`` deviations, ``LEAST_FACTOR``
times the mean, and twice the longest wait in memory, which catches what is no log-normal (a prompt that was not
cached among a hundred that were).

The first token of a long prompt takes longer, about in proportion. So prompts are learned by size, in powers of two,
and a size that has too few answers of its own takes the limit of the nearest smaller one in proportion to the sizes.
Regression on the tokens was rejected: where all prompts are short, or some are cached, its slope says nothing about
long ones.

A wait that a limit cut off says only that the answer takes longer. It backs the limit off, as RFC 6298 (section 5.5)
does with TCP's: to twice the wait that was in vain, for every size and for ten minutes. By then the answers that it
let through have been learned. It ends sooner where the offer is as fast as ever after an outage, and where a wait up to
the configured limit was in vain too: then waiting is no use (some requests hang, whatever one grants them), and for a
while only failures without an answer between them back off.
"""

from __future__ import annotations

import math

import msgspec

DEVIATIONS = 5.0
"""Of the logarithm: 99.9 % of log-normal waits lie within 3.1; the rest is margin. RFC 6298 takes 4, of plain time."""
LEAST_FACTOR = 4.0
"""The least ratio of limit to mean, for offers that hardly vary."""
BACK_OFF = 2.0
"""Ratio of a limit to the longest wait known: that of RFC 6298."""
PROBE_BACK_OFF = 1.25
"""The same after a probe: its caller waits for an offer that is likely away, and not slow."""
ENOUGH = 20.0
"""Answers of one size before its limit adapts; fewer count for nothing."""
MOST = 200.0
"""Weight of the past in answers: the mean follows a change within some hundreds."""
HALF_LIFE_S = 900.0
"""Weights halve in this time: an offer not asked for an hour has its configured limits again."""
LONGEST_FADES = 1e-3
"""The longest wait fades by this share with each answer, besides its half-life: what is rarer than one in a thousand
may be cut off."""
BACKED_OFF_S = 600.0
"""How long a back-off holds after the last wait in vain, and how long waiting on counts as no use once it was none."""
IN_A_ROW = 3
"""So many waits in vain without an answer between them are the offer's state, and not one request's."""

SPACING_S = 0.01
"""Of answers that are taken in once there are enough; more of them tell little, and cost as much."""

_SMALLEST_BITS, _LARGEST_BITS = 9, 20
"""Prompts of up to 511 tokens are one size, and those of 524,288 and more."""
_SHORTEST_S, _LONGEST_S = 1e-6, 1e6
_LOG_FACTOR = math.log(LEAST_FACTOR)
_DECAY_PER_S = math.log(2.0) / HALF_LIFE_S
_ABOUT = 1.001
_NEARLY = 0.95
"""Clocks and event loops are this exact about a limit that was reached."""


class PatienceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of an offer's limits, in seconds."""

    adaptive: bool = True
    first_token_s: float = 30.0
    """The configured limit, which no adaptive one exceeds."""
    idle_s: float = 30.0
    least_first_token_s: float = 2.0
    least_idle_s: float = 2.0


class Waits:
    """Waits of one kind and size: their decayed log-normal, their longest, and the limit that follows."""

    __slots__ = ("_at", "_longest", "_mean", "_variance", "_weight", "limit_s", "longest_s", "next_at", "until")

    def __init__(self) -> None:
        self.limit_s = math.inf
        self.until = -math.inf
        """Instant up to which ``limit_s`` holds: from then on the answers that it stands on have faded."""
        self.longest_s = 0.0
        self.next_at = -math.inf
        """Instant before which a wait that is not the longest tells nothing new."""
        self._weight = 0.0
        self._mean = 0.0
        self._variance = 0.0
        self._longest = -math.inf
        """Logarithm, as the mean."""
        self._at = -math.inf

    def add(self, seconds: float, now_s: float) -> None:
        """Take in one wait that ended in an answer."""
        wait = math.log(min(max(seconds, _SHORTEST_S), _LONGEST_S))
        weight, longest = self._weight, self._longest
        elapsed_s = now_s - self._at
        if elapsed_s > 0.0:
            weight *= math.exp(-_DECAY_PER_S * elapsed_s)
            longest -= _DECAY_PER_S * elapsed_s
            self._at = now_s
        self._weight = weight = min(weight, MOST) + 1.0
        off = wait - self._mean
        step = off / weight
        self._mean += step
        self._variance = (1.0 - 1.0 / weight) * (self._variance + off * step)
        self._longest = max(wait, longest - LONGEST_FADES)
        self.longest_s = longest_s = math.exp(self._longest)
        if weight >= ENOUGH:
            spread = max(DEVIATIONS * math.sqrt(self._variance), _LOG_FACTOR)
            self.limit_s = max(math.exp(self._mean + spread), BACK_OFF * longest_s)
            self.until = now_s + math.log(weight / ENOUGH) / _DECAY_PER_S
            self.next_at = now_s + SPACING_S


class Patience:
    """The limit of one kind of wait at one offer. Constant memory; instants are of one non-decreasing clock."""

    __slots__ = (
        "_by_bits", "_in_a_row", "_known_until", "_last", "_stretch", "_useless_until", "backed_off_until", "floor_s",
        "most_s",
    )  # fmt: skip

    def __init__(self, floor_s: float, most_s: float) -> None:
        self.floor_s = floor_s
        self.most_s = most_s
        """The configured limit, which none exceeds."""
        smallest = Waits()
        self._by_bits = [smallest] * _SMALLEST_BITS + [smallest]
        self._by_bits += [Waits() for _ in range(_LARGEST_BITS - _SMALLEST_BITS)]
        """Waits by the length of the prompt's tokens in binary digits."""
        self._last = smallest
        self._known_until = -math.inf
        self._stretch = 1.0
        self.backed_off_until = -math.inf
        self._useless_until = -math.inf
        self._in_a_row = 0

    def limit_s(self, tokens: int, now_s: float) -> float:
        """Seconds to wait with a prompt of so many tokens, within the bounds."""
        bits = tokens.bit_length()
        waits = self._by_bits[bits if bits < _LARGEST_BITS else _LARGEST_BITS]
        if now_s < waits.until and now_s >= self.backed_off_until:
            limit_s = waits.limit_s if waits.limit_s > self.floor_s else self.floor_s
        elif now_s < self._known_until:
            limit_s = self._learned_s(bits, now_s) * (self._stretch if now_s < self.backed_off_until else 1.0)
        else:
            return self.most_s
        return limit_s if limit_s < self.most_s else self.most_s

    def hurried_s(self, share: float, tokens: int, now_s: float) -> float:
        """That share of ``limit_s``, but never less than twice the longest wait in memory."""
        waits, factor = self._nearest(tokens.bit_length(), now_s)
        limit_s = self.limit_s(tokens, now_s)
        if waits is None:
            return limit_s
        return min(max(share * limit_s, BACK_OFF * factor * waits.longest_s, self.floor_s), limit_s)

    @property
    def backed_off_at(self) -> float:
        """Instant of the last back-off that still holds; -inf where there is none."""
        return self.backed_off_until - BACKED_OFF_S

    @property
    def usual_tokens(self) -> int:
        """A prompt of the size that was answered last."""
        return 1 << self._by_bits.index(self._last) >> 1

    def answered(self, seconds: float, tokens: int, now_s: float) -> None:
        """A wait of ``seconds`` ended in an answer."""
        bits = tokens.bit_length()
        waits = self._by_bits[bits if bits < _LARGEST_BITS else _LARGEST_BITS]
        if now_s < waits.next_at and seconds <= waits.longest_s * _ABOUT and not self._in_a_row:
            return
        if self._in_a_row:
            # As fast as ever again, after nothing had come at all: it was away, and is not slow.
            was_away = self._in_a_row >= IN_A_ROW or now_s < self._useless_until
            if was_away and seconds <= self._learned_s(bits, now_s):
                self.backed_off_until = -math.inf
            self._in_a_row = 0
        waits.add(seconds, now_s)
        self._last = waits
        self._known_until = max(self._known_until, waits.until)

    def unanswered(self, seconds: float, tokens: int, now_s: float, *, probed: bool = False) -> None:
        """Nothing had come after ``seconds``, and nobody waited on; ``probed``: of an offer that was given up on."""
        self._in_a_row += 1
        learned_s = self._learned_s(tokens.bit_length(), now_s)
        if seconds >= self.most_s * _NEARLY:
            self.backed_off_until = -math.inf
            self._useless_until = now_s + BACKED_OFF_S
        elif seconds >= learned_s * _NEARLY and (now_s >= self._useless_until or self._in_a_row >= IN_A_ROW):
            held = self._stretch if now_s < self.backed_off_until else 1.0
            self._stretch = max(held, (PROBE_BACK_OFF if probed else BACK_OFF) * seconds / learned_s)
            self.backed_off_until = now_s + BACKED_OFF_S

    def _learned_s(self, bits: int, now_s: float) -> float:
        """The limit without back-off and upper bound; +inf where too little is known."""
        waits, factor = self._nearest(bits, now_s)
        return math.inf if waits is None else max(factor * waits.limit_s, self.floor_s)

    def _nearest(self, bits: int, now_s: float) -> tuple[Waits | None, float]:
        """The waits that tell most of prompts of that size, and by what they are to be multiplied.

        They are those of the size itself; else of the nearest smaller one, in proportion; else of the nearest larger.
        """
        own = min(max(bits, _SMALLEST_BITS), _LARGEST_BITS)
        for other in (*range(own, _SMALLEST_BITS - 1, -1), *range(own + 1, _LARGEST_BITS + 1)):
            waits = self._by_bits[other]
            if now_s < waits.until:
                return waits, math.ldexp(1.0, max(own - other, 0))
        return None, 1.0
