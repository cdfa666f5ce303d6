"""A stream that broke: what the caller already has of it, and how another offer is asked for the rest.

DESIGN.md, "Mid-stream rescue". Nothing was sent: the request is asked anew, unseen. Text was sent: an offer that
continues assistant messages goes on from it; any other is asked anew, and joined where it repeats what was sent.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import msgspec

from amaru.accounts.tokens import count_sent, count_usage, may_be_tokens, surely_spent
from amaru.domain import Join, Kind, Offer, Provenance, Usage
from amaru.protocols.continuing import continuation_of, may_be_continued, repeats_its_prompt
from amaru.protocols.joining import Joint, closing_events, continued_part
from amaru.protocols.openai import OpenAIRequest
from amaru.protocols.prompts import prompt_of
from amaru.protocols.stream import Sent
from amaru.routing.board import Board


class Ask(msgspec.Struct, gc=False):
    """What one offer is asked: the request, and how its answer is joined to what was sent."""

    request: OpenAIRequest
    join: Join | None = None
    joint: Joint | None = None
    """``None``: its events are handed on as they come."""
    tokens: SentTokens | None = None
    """Of a continuation: what was sent, which stands in its prompt."""


class SentTokens(NamedTuple):
    """Tokens of the part of an answer that was sent."""

    content: int
    reasoning: int
    source: Provenance


class Broken:
    """A stream that broke, once or more often, and the way on.

    Attributes
    ----------
    request
        As the caller sent it.
    sent
        What the caller has, of all attempts together.
    rows
        The offers whose streams broke, or could not be joined.
    refused
        Those that did not continue: they are asked anew instead. True: it was the form of a continuation that one
        refused, if it takes the request as it is.
    """

    __slots__ = ("_continuable", "_continued_its_own", "_head", "refused", "request", "rows", "sent")

    def __init__(self, request: OpenAIRequest, *, continued_its_own: bool) -> None:
        """``continued_its_own``: see ``continuing.may_be_continued``."""
        self.request = request
        self.sent = Sent()
        self.rows: set[int] = set()
        self.refused: dict[int, bool] = {}
        self._head = b""
        self._continuable = False
        self._continued_its_own = continued_its_own

    def broke(self, row: int, head: bytes, sent: Sent) -> None:
        """The offer of ``row`` broke; the caller has ``sent`` by now, of which ``head`` came first."""
        self.rows.add(row)
        self.sent = sent
        self._head = head
        text = continued_part(sent)
        self._continuable = bool(text) and may_be_continued(self.request, continued_its_own=self._continued_its_own)

    @property
    def possible(self) -> bool:
        """Whether there is a way on at all: everything that was sent can be compared."""
        return not self.sent.opaque

    @property
    def is_complete(self) -> bool:
        """The caller has as many tokens as it allowed: only the finish reason is missing.

        Not after reasoning: whether that counts against the limit differs between providers. Nor where the pieces that
        came were smaller than tokens, or were those of the prompt.
        """
        request, sent = self.request, self.sent
        limit = request.max_output_tokens
        if not limit or sent.events < limit or sent.reasoning or request.choices != 1 or not self.possible:
            return False
        return may_be_tokens(sent.content, sent.events) and not repeats_its_prompt(request)

    def closing(self, model: str) -> tuple[bytes, Usage]:
        """The events that end an answer that is complete, and its usage."""
        request, sent = self.request, self.sent
        usage = count_usage(model, prompt_of(request), [sent.reasoning, sent.content])
        usage = msgspec.structs.replace(usage, output_tokens=sent.events, source=Provenance.ESTIMATED)
        told = usage if request.include_usage else None
        return closing_events(self._head, request.kind is Kind.CHAT, "length", told), usage

    def preferred(self, candidates: list[int], board: Board) -> list[int]:
        """``candidates`` in the order in which they are asked: a continuation cannot come out differently."""
        if not self._continuable:
            return candidates
        return sorted(candidates, key=lambda row: not self._continues(row, board))

    def ask(self, offer: Offer, row: int, board: Board) -> Ask:
        """What to ask ``offer``."""
        sent, request = self.sent, self.request
        if not sent.anything:
            return Ask(request, Join.UNSEEN)
        if self._continues(row, board):
            text = continued_part(sent)
            content, source = count_sent(offer.model, text, sent.events)
            reasoning = count_sent(offer.model, sent.reasoning, sent.reasoning_events)[0] if sent.reasoning else 0
            joint = Joint(self._head, sent, continues=True, retell=functools.partial(_shifted, content, reasoning))
            spent = surely_spent(content + reasoning, source, sent.events + sent.reasoning_events)
            asked = continuation_of(request, text, spent, offer.prefill_style)
            return Ask(asked, Join.CONTINUED, joint, SentTokens(content, reasoning, source))
        joint = Joint(self._head, sent, continues=False, retell=_as_told)
        return Ask(request, Join.REPEATED if sent.content or sent.reasoning else Join.UNSEEN, joint)

    def _continues(self, row: int, board: Board) -> bool:
        return self._continuable and row not in self.refused and board.can_continue(row)


def delivered_usage(ask: Ask, usage: Usage, broken: Broken) -> Usage:
    """What the caller is told it used: its own prompt and the whole answer, not what this attempt alone was asked."""
    if ask.joint is None:
        return usage
    if broken.sent.choices:  # some of the choices are an earlier attempt's
        return msgspec.structs.replace(usage, source=Provenance.ESTIMATED)
    tokens = ask.tokens
    if tokens is None:
        return usage
    prompt_tokens = max(usage.input_tokens - tokens.content, 0)
    exact = tokens.source is Provenance.COUNTED and usage.source is not Provenance.ESTIMATED
    return msgspec.structs.replace(
        usage,
        input_tokens=prompt_tokens,
        output_tokens=usage.output_tokens + tokens.content + tokens.reasoning,
        cached_input_tokens=min(usage.cached_input_tokens, prompt_tokens),
        source=Provenance.COUNTED if exact else Provenance.ESTIMATED,
    )


def _shifted(content: int, reasoning: int, wire: dict[str, Any]) -> dict[str, Any]:  # Any: OpenAI's usage object
    """The provider's usage, with the part of the answer that stood in its prompt counted as answer."""
    prompt, completion = wire.get("prompt_tokens"), wire.get("completion_tokens")
    if isinstance(prompt, int) and isinstance(completion, int):
        wire["prompt_tokens"] = max(prompt - content, 0)
        wire["completion_tokens"] = completion + content + reasoning
        wire["total_tokens"] = wire["prompt_tokens"] + wire["completion_tokens"]
        details = wire.get("prompt_tokens_details")
        if isinstance(details, dict) and isinstance(cached := details.get("cached_tokens"), int):
            details["cached_tokens"] = min(cached, wire["prompt_tokens"])
    return wire


def _as_told(wire: dict[str, Any]) -> dict[str, Any]:  # Any: OpenAI's usage object
    return wire
