"""A caller of an OpenAI-compatible endpoint that measures what it gets, with the official client's habit of retrying.

The habit is that of the ``openai`` Python library, so that whoever is compared with amaru is not a straw man: two more
tries on connection errors and on 408, 409, 429 and 5xx, after the server's Retry-After where it is at most a minute,
else after 0.5 s, doubled each time up to 8 s, less up to a quarter of it. Streams that break are not asked for again:
the library cannot do so either.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import msgspec

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.providers.transport import Header, HttpResponse, Transport, endpoint_from_url, open_transport
from amaru.readiness.measuring import TRUNCATED, UNFINISHED, Sample
from amaru.readiness.stream_reading import StreamReading

MAX_BODY_BYTES = 1024 * 1024
RETRIED_STATUSES = frozenset((408, 409, 429))
RETRIED_FAILURES = frozenset(
    (FailureKind.CONNECT, FailureKind.RESET, FailureKind.NO_ANSWER, FailureKind.MALFORMED_BODY)
)


class Habits(msgspec.Struct, frozen=True, kw_only=True):
    """How a caller behaves."""

    max_retries: int = 2
    """The ``openai`` library's default."""
    retry_after_limit_s: float = 60.0
    patience_s: float = 30.0
    """Longest wait for an answer's head, and longest silence inside a stream."""
    exact_lengths: bool = True
    """Ask for exactly the trace's output tokens (``ignore_eos``, an extension that vLLM and the simulator know)."""


class Ask(msgspec.Struct, frozen=True):
    """One request to be made."""

    prompt: str
    input_tokens: int
    output_tokens: int


class Caller:
    """Calls one endpoint.

    Parameters
    ----------
    base_url
        As an OpenAI client takes it: ``http://127.0.0.1:8080/v1``.
    model, key
        What is asked for, and the key; ``None``: no Authorization header.
    label
        The provider's name where the server does not say who served.
    rng
        Of the back-off.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key: str | None = None,
        label: str = "",
        habits: Habits | None = None,
        rng: random.Random | None = None,
        open_transport: Callable[[str], Transport] | None = None,
    ) -> None:
        self._transport = (open_transport or _open)(base_url)
        self._model = model
        self._label = label
        self._habits = habits or Habits()
        self._rng = rng or random.Random(0)  # noqa: S311 -- jitter, not secret
        self._headers: Sequence[Header] = [
            (b"content-type", b"application/json"),
            *([(b"authorization", b"Bearer " + key.encode())] if key else []),
        ]

    async def aclose(self) -> None:
        """Close its connections."""
        await self._transport.aclose()

    async def call(self, ask: Ask, sample: Sample, due: float) -> None:
        """Make one request and write what became of it into ``sample``, also where it is cancelled on the way.

        ``due`` is the instant (``loop.time()``) at which it was meant to be sent; times count from there.
        """
        loop = asyncio.get_running_loop()
        body = self._body(ask)
        sample.provider = self._label
        sample.input_tokens = ask.input_tokens
        try:
            for tried in range(self._habits.max_retries + 1):
                sample.client_retries = tried
                wait_s = await self._once(body, sample, due)
                if wait_s is None or tried == self._habits.max_retries:
                    return
                await asyncio.sleep(wait_s if wait_s > 0 else self._back_off_s(tried))
        finally:
            sample.latency_s = loop.time() - due

    def _body(self, ask: Ask) -> bytes:
        fields: dict[str, object] = {
            "model": self._model,
            "messages": [{"role": "user", "content": ask.prompt}],
            "max_tokens": max(1, ask.output_tokens),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._habits.exact_lengths:
            fields["ignore_eos"] = True
        return msgspec.json.encode(fields)

    async def _once(self, body: bytes, sample: Sample, due: float) -> float | None:
        """One try. Returns ``None`` where it is final, else the seconds to wait before the next (0: the server did
        not say)."""
        loop = asyncio.get_running_loop()
        sample.error, sample.detail, sample.status = UNFINISHED, "", 0
        try:
            response = await self._transport.send(
                "POST",
                b"/chat/completions",
                self._headers,
                body,
                head_deadline=loop.time() + self._habits.patience_s,
                head_kind=FailureKind.NO_ANSWER,
            )
        except Failure as failure:
            sample.error, sample.detail = failure.kind.value, failure.message
            return 0.0 if failure.kind in RETRIED_FAILURES else None
        sample.status = response.status
        try:
            if response.status != 200:
                return await self._refused(response, sample)
            await self._read(response, sample, due)
        finally:
            response.close(linger_s=1.0)
        return None

    async def _refused(self, response: HttpResponse, sample: Sample) -> float | None:
        deadline = asyncio.get_running_loop().time() + self._habits.patience_s
        response.set_deadline(deadline, FailureKind.NO_ANSWER, "the error's body did not come")
        sample.error = f"http_{response.status}"
        _served_by(response, sample)
        try:
            sample.detail = (await response.read(MAX_BODY_BYTES))[:300].decode("utf-8", "replace")
        except Failure as failure:
            sample.detail = failure.message
        if response.status < 500 and response.status not in RETRIED_STATUSES:
            return None
        return _retry_after_s(response, self._habits.retry_after_limit_s)

    async def _read(self, response: HttpResponse, sample: Sample, due: float) -> None:
        loop = asyncio.get_running_loop()
        patience_s = self._habits.patience_s
        reading = StreamReading()
        _served_by(response, sample)
        try:
            while True:
                what = f"silence for {patience_s:g} s"
                response.set_deadline(loop.time() + patience_s, FailureKind.STREAM_STALLED, what)
                data = await response.chunk()
                if not data:
                    break
                if reading.feed(data):
                    sample.first_token_s = loop.time() - due
                if reading.done or reading.error:
                    break
        except Failure as failure:
            sample.error, sample.detail = failure.kind.value, failure.message
        else:
            sample.error, sample.detail = _verdict(reading)
        if reading.usage is not None:
            sample.input_tokens, sample.output_tokens = reading.usage
        else:
            sample.output_tokens, sample.counted_by = reading.content_events, "client"
        receipt = reading.receipt
        if receipt is not None:
            sample.attempts, sample.cost_usd = receipt.attempts, receipt.cost_usd
            sample.provider = receipt.provider or sample.provider
            sample.decision = receipt.decision

    def _back_off_s(self, tried: int) -> float:
        return min(0.5 * 2.0**tried, 8.0) * (1 - 0.25 * self._rng.random())


def _verdict(reading: StreamReading) -> tuple[str, str]:
    """The error of a stream that ended, and its words; both empty where the answer is whole."""
    if reading.whole:
        return "", ""
    words = "the stream ended without a finish reason and without an error"
    return reading.error or TRUNCATED, reading.detail or words


def _open(base_url: str) -> Transport:
    # A load generator must not queue behind its own pool: that would be the omission it exists to avoid.
    template = msgspec.structs.replace(endpoint_from_url(base_url), max_connections=8192, provider="target")
    return open_transport(template)


def _served_by(response: HttpResponse, sample: Sample) -> None:
    headers = response.headers
    provider = headers.get(b"x-amaru-provider")
    if provider is not None:
        sample.provider = provider.decode("latin-1")
    attempts = headers.get(b"x-amaru-attempts", b"")
    if attempts.isdigit():
        sample.attempts = int(attempts)
    sample.decision = headers.get(b"x-amaru-decision", b"").decode("latin-1")


def _retry_after_s(response: HttpResponse, limit_s: float) -> float:
    """Retry-After as the official client reads it, in milliseconds or seconds; 0 where it is absent or too long."""
    for name, unit_s in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
        try:
            wait_s = float(response.headers.get(name, b"")) * unit_s
        except ValueError:
            continue
        if 0 < wait_s <= limit_s:
            return wait_s
    return 0.0
