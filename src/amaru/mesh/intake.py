"""What attempts leave behind for health: queued as they end, and reduced to figures after the answers.

Of answers that are sampled, text stays in the queue for milliseconds, and leaves it as figures only (law 4). When it is
full of attempts, what comes is dropped and counted; when it is full of text, what comes is not sampled (law 9).
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Sequence

import msgspec

from amaru.domain import Attempt, FailureKind, Kind, Offer, Outcome
from amaru.health.observation import Observation, Sample
from amaru.health.sample import hash_of, sample_of
from amaru.protocols.openai import OpenAIRequest
from amaru.protocols.prompts import prompt_of
from amaru.providers.base import Facts, StreamReply, WholeReply
from amaru.providers.whole_stream import WholeStreamReply

MAX_WAITING = 4096
"""Attempts that wait to be looked at; more are dropped, and counted."""
MAX_WAITING_BYTES = 16 * 1024 * 1024
"""Of requests and answers that wait to be sampled; beyond it, attempts wait without theirs."""
MOST_PER_S = 200.0
"""Attempts of one offer that are taken in per second. Of more, so many are, as they come: whether one is does not hang
on how it ended, so shares and quantiles stay what they are, and seeing more of them would only cost."""
SAMPLE_BURST = 100
"""Answers of one offer that may be sampled at once, however slow the rate: an offer that begins to answer nonsense is
seen by each of its next answers."""


Buckets = dict[str, tuple[float, float]]
"""By offer: tokens left, and as of when."""


class Sampled(msgspec.Struct, frozen=True, gc=False):
    """An answer that is looked at more closely, with what was asked."""

    request: OpenAIRequest
    texts: list[str]
    data: bytes
    whole: bool


class Left(msgspec.Struct, frozen=True, gc=False):
    """What one attempt left behind."""

    attempt: Attempt
    at: float
    """When it ended, in Unix seconds."""
    kind: Kind
    stream: bool
    input_tokens: int
    """As they were estimated."""
    output_chars: int | None
    """``None``: no answer came."""
    finish_reason: str | None
    sampled: Sampled | None
    probe: bool
    refused: OpenAIRequest | None = None
    """What was asked, where it was refused as a bad request."""


class Intake:
    """A bounded queue of what attempts left behind. Belongs to the event loop's thread, but for ``reduce``.

    Parameters
    ----------
    salt
        Keys the hashes that stand for texts and prompts.
    wall
        Unix seconds.
    samples_per_s
        Answers per second and offer that are sampled, beyond a burst.
    workers
        Processes of one machine that take in together: each takes its share of what is taken in per second.
    """

    def __init__(self, salt: bytes, wall: Callable[[], float], samples_per_s: float, workers: int = 1) -> None:
        self.samples_per_s = samples_per_s
        self.dropped = 0
        """Attempts that found the queue full."""
        self.skipped = 0
        """Attempts beyond ``MOST_PER_S``."""
        self._salt = salt
        self._wall = wall
        self._workers = workers
        self._waiting: collections.deque[Left | Observation] = collections.deque()
        self._waiting_bytes = 0  # of what is to be sampled
        self._samples: Buckets = {}
        self._attempts: Buckets = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def ended(
        self, attempt: Attempt, request: OpenAIRequest, reply: WholeReply | StreamReply | None, *, probe: bool = False
    ) -> None:
        """An attempt ended that says something about its offer."""
        waiting = self._waiting
        if len(waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        at = self._wall()
        most_per_s = MOST_PER_S / self._workers
        if not _draw(self._attempts, attempt.offer, at, most_per_s, most_per_s):
            self.skipped += 1
            return
        kind, input_tokens = request.kind, request.input_tokens_estimate
        stream = request.stream and not isinstance(reply, WholeStreamReply)
        if reply is None:
            refused = (
                request if attempt.failure is FailureKind.BAD_REQUEST and self._holds(_bytes_of(request)) else None
            )
            waiting.append(Left(attempt, at, kind, stream, input_tokens, None, None, None, probe, refused))
            return
        facts, sampled, samples_per_s = reply.facts, None, self.samples_per_s / self._workers
        chars, reasons = facts.output_chars, facts.finish_reasons
        if attempt.failure is None and (
            chars == 0 or (samples_per_s > 0.0 and _draw(self._samples, attempt.offer, at, samples_per_s, SAMPLE_BURST))
        ):
            sampled = self._sampled(request, facts, reply)
        reason = reasons[0] if reasons else None
        waiting.append(Left(attempt, at, kind, stream, input_tokens, chars, reason, sampled, probe))

    def _sampled(self, request: OpenAIRequest, facts: Facts, reply: WholeReply | StreamReply) -> Sampled | None:
        """What is to be sampled of it; ``None``: there is no room."""
        data, whole = reply.sample()
        if not self._holds(_bytes_of(request) + facts.output_chars + len(data)):
            return None
        return Sampled(request, facts.output_text, data, whole)

    def _holds(self, more_bytes: int) -> bool:
        """Whether there is room for so much, which is taken then."""
        room = self._waiting_bytes + more_bytes <= MAX_WAITING_BYTES
        self._waiting_bytes += more_bytes if room else 0
        return room

    def reported(self, offer: Offer, kind: Kind, outcome: Outcome) -> None:
        """A caller told what became of work that it placed itself."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        told = Observation(
            offer=offer.id,
            provider=offer.provider,
            at=self._wall(),
            ok=outcome.ok,
            failure=outcome.failure,
            latency_ms=outcome.latency_ms,
            first_token_ms=outcome.first_token_ms,
            kind=kind,
        )
        self._waiting.append(told)

    def take_in(self, observations: Sequence[Observation]) -> None:
        """What attempts in other workers showed; those beyond ``MOST_PER_S`` were passed over there."""
        room = max(MAX_WAITING - len(self._waiting), 0)
        self._waiting.extend(observations[:room])
        self.dropped += max(len(observations) - room, 0)

    def take(self) -> collections.deque[Left | Observation]:
        """All that waits, out of the queue; what waited longest comes first."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, collections.deque(), 0
        return waiting

    def keep(self, offers: Collection[str]) -> None:
        """Forget how much is taken in of all other offers: the configuration changed."""
        for buckets in (self._samples, self._attempts):
            for gone in buckets.keys() - set(offers):
                del buckets[gone]

    def reduce(self, left: Left | Observation) -> Observation:
        """The figures of what was left behind, with no text in them. May run on any thread."""
        if isinstance(left, Observation):
            return left
        attempt, usage, chars = left.attempt, left.attempt.usage, left.output_chars
        return Observation(
            offer=attempt.offer,
            provider=attempt.provider,
            at=left.at,
            ok=attempt.failure is None,
            failure=attempt.failure,
            status=attempt.status,
            stream=left.stream,
            latency_ms=attempt.latency_ms,
            first_token_ms=attempt.first_token_ms,
            input_tokens=left.input_tokens if usage is None else usage.input_tokens,
            output_tokens=None if usage is None or chars is None else usage.output_tokens,
            output_chars=chars or 0,
            prompt=0 if left.refused is None else self._prompt(left.refused),
            load=attempt.load,
            finish_reason=left.finish_reason,
            sample=None if left.sampled is None else self._sample(left, left.sampled),
            probe=left.probe,
            kind=left.kind,
        )

    def _prompt(self, request: OpenAIRequest) -> int:
        """A hash of its prompt; 0: it is not all text."""
        prompt = prompt_of(request)
        return hash_of(prompt, self._salt) if isinstance(prompt, str) else 0

    def _sample(self, left: Left, sampled: Sampled) -> Sample:
        sample = sample_of(
            left.kind,
            sampled.data,
            None if left.kind is Kind.EMBEDDING else sampled.texts,
            self._salt,
            self._prompt(sampled.request),
            stream=left.stream,
            whole=sampled.whole,
        )
        # Whole answers in the place of streams have another shape, which is no change of the provider's.
        return sample if left.stream is sampled.request.stream else msgspec.structs.replace(sample, shape=0)


def _bytes_of(request: OpenAIRequest) -> int:
    return sum(map(len, request.fields.values()))


def _draw(buckets: Buckets, offer: str, at: float, per_s: float, most: float) -> bool:
    """One token of the offer's bucket, if there is one: ``per_s`` of them come in, up to ``most``."""
    left, since = buckets.get(offer, (most, at))
    if at > since:
        left = min(left + (at - since) * per_s, most)
    drawn = left >= 1.0
    buckets[offer] = (left - 1.0 if drawn else left, at)
    return drawn
