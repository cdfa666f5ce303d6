"""The stream that a whole answer makes: for offers asked for one while their streams break, or which send no other."""

from __future__ import annotations

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.protocols.openai import OpenAIRequest
from amaru.protocols.stream import Sent
from amaru.protocols.whole_as_stream import chunks_of, sent_by
from amaru.providers.base import Facts, StreamReply, WholeReply


class WholeStreamReply(StreamReply):
    """See ``base.StreamReply``: all its events are in ``first``, and nothing can go wrong behind them.

    Its facts and its sample are those of the whole answer: when that came says nothing of how soon streams begin.

    Raises
    ------
    Failure
        ``MALFORMED_BODY``: the answer holds what no chunk can.
    """

    __slots__ = ("_whole", "first")

    def __init__(self, reply: WholeReply, request: OpenAIRequest) -> None:
        try:
            self.first = chunks_of(request.kind, reply.body, include_usage=request.include_usage)
        except (ValueError, LookupError, RecursionError) as error:
            failure = Failure(
                FailureKind.MALFORMED_BODY,
                f"the whole answer makes no stream: {type(error).__name__}",
                status=reply.status,
                bytes_received=reply.facts.bytes_received,
            )
            failure.generated_bytes = reply.facts.bytes_received  # it was generated, and is billed
            raise failure from None
        self._whole = reply

    @property
    def facts(self) -> Facts:
        return self._whole.facts

    @property
    def sent(self) -> Sent:
        return sent_by(self.first)

    def sample(self) -> tuple[bytes, bool]:
        return self._whole.sample()

    async def next(self) -> bytes:
        return b""

    def close(self) -> None:
        """Nothing is open: the answer came whole."""
