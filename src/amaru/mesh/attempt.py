"""One call to one offer: what must be released when it ends, what it is billed, and what is kept of it."""

from __future__ import annotations

from amaru.accounts.charges import Charge
from amaru.accounts.lease import Reservation
from amaru.accounts.money import usd_of
from amaru.accounts.tokens import count_usage
from amaru.domain import Attempt, Join, Kind, Offer, Provenance, Usage
from amaru.errors import Failure
from amaru.mesh.rescue import Ask
from amaru.protocols.openai import BYTES_PER_TOKEN
from amaru.protocols.prompts import prompt_of
from amaru.providers.base import StreamReply, WholeReply
from amaru.providers.whole_stream import WholeStreamReply
from amaru.routing.live import Admission

CALLER_LEFT = "the caller went away"
DIVERGED = "its answer did not repeat what was sent already, so it could not be joined"


class OpenAttempt:
    """An attempt under way: what must be released and measured when it ends."""

    __slots__ = (
        "admission", "ask", "begun", "charge", "ended", "load", "offer", "reply", "reservation", "row", "started_at",
        "whole",
    )  # fmt: skip

    def __init__(self, row: int, offer: Offer, admission: Admission, started_at: float, ask: Ask, load: float) -> None:
        self.row = row
        self.ended = False
        self.begun = False
        """Its first token was learned from."""
        self.load = load
        """Share of the offer's capacity that others had taken."""
        self.offer = offer
        self.admission = admission
        self.started_at = started_at
        self.ask = ask
        self.reply: WholeReply | StreamReply | None = None
        self.whole = False
        """A stream is wanted, and a whole answer was asked for."""
        self.reservation: Reservation | None = None
        """Of what it may cost, once it has gone out; to be ended."""
        self.charge: Charge | None = None
        """What stands of it while nothing more is known."""

    @property
    def streamed(self) -> bool:
        """A stream is what was asked for, and what came if anything did: its waits are those of streams."""
        return self.ask.request.stream and not self.whole and not isinstance(self.reply, WholeStreamReply)

    def bill(self, failure: Failure | None) -> Usage | None:
        """What it used, as its provider will bill it: the provider's figures where given, else counted or estimated.

        ``None``: its provider bills nothing for it, as far as one can tell.
        """
        request = self.ask.request
        if self.reply is not None:
            facts = self.reply.facts
            if facts.usage is not None or request.kind is Kind.GPU_JOB:
                return facts.usage
            return count_usage(self.offer.model, prompt_of(request), facts.output_text, facts.output_chars)
        if failure is None or failure.generated_bytes is None:
            return None
        prompt = count_usage(self.offer.model, prompt_of(request), "")
        output_tokens = -(-failure.generated_bytes // BYTES_PER_TOKEN)
        if request.max_output_tokens is not None:
            output_tokens = min(output_tokens, request.max_output_tokens)
        return Usage(prompt.input_tokens, output_tokens, source=Provenance.ESTIMATED)

    def first_token_ms(self) -> float | None:
        """From its start to its first content; ``None`` where none came, or where the answer was whole at once."""
        if self.reply is None or self.reply.facts.first_token_at is None:
            return None
        return (self.reply.facts.first_token_at - self.started_at) * 1e3

    def record(
        self,
        arrived_at: float,
        now: float,
        failure: Failure | None,
        usage: Usage | None,
        pusd: int,
        detail: str,
        *,
        out_of_time: bool,
    ) -> Attempt:
        """What is kept of it; ``pusd`` is its cost. ``out_of_time``: the request's own deadline ended it."""
        reply = self.reply
        received = reply.facts.bytes_received if reply is not None else failure.bytes_received if failure else 0
        return Attempt(
            offer=self.offer.id,
            provider=self.offer.provider,
            started_ms=(self.started_at - arrived_at) * 1e3,
            latency_ms=(now - self.started_at) * 1e3,
            first_token_ms=self.first_token_ms(),
            failure=failure.kind if failure is not None else None,
            status=failure.status if failure is not None else 200 if reply is not None else None,
            detail=failure.message if failure is not None else detail,
            usage=usage,
            cost_usd=usd_of(pusd),
            bytes_received=received,
            joined=Join.DIVERGED if detail == DIVERGED else self.ask.join,
            load=self.load,
            out_of_time=out_of_time,
        )


def used_tokens(usage: Usage | None, failure: Failure | None) -> float | None:
    """Tokens to hold against the offer's limit: what was used, none for a failure that used none, else ``None``: the
    estimate."""
    if usage is None:
        return None if failure is None else 0.0
    return usage.input_tokens + usage.output_tokens
