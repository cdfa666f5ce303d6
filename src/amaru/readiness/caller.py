"""A caller of an OpenAI-compatible endpoint that measures what it gets, with the official client's habit of retrying.

The habit is that of the ``openai`` Python library, so that whoever is compared with amaru is not a straw man: two more
tries on connection errors and on 408, 409, 429 and 5xx, after the server's Retry-After where it is at most a minute,
else after 0.5 s, doubled each time up to 8 s, less up to a quarter of it. Streams that break are not asked for again:
the library cannot do so either. A load test asks once (``max_retries=0``): retries would hide failures in latencies.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.providers.transport import Header, HttpResponse, Transport, endpoint_from_url, open_transport
from amaru.readiness.measuring import TRUNCATED, UNFINISHED, Sample
from amaru.readiness.stream_reading import StreamReading

MAX_BODY_BYTES = 8 * 1024 * 1024
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
    """Longest wait for an answer's head, and longest silence inside a stream; comments are silence."""
    exact_lengths: bool = True
    """Ask for exactly the trace's output tokens (``ignore_eos``, an extension that vLLM and the simulator know)."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    stream: bool = True
    stream_usage: bool = True
    """Ask streams for their usage; without it the client counts."""


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
    clock
        Seconds by which times are taken. Not the loop's own: uvloop counts whole milliseconds.
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
        clock: Callable[[], float] = time.monotonic,
        open_transport: Callable[[str], Transport] | None = None,
    ) -> None:
        self._transport = (open_transport or _open)(base_url)
        self._model = model
        self._label = label
        self._habits = habits or Habits()
        self._rng = rng or random.Random(0)  # noqa: S311 -- jitter, not secret
        self._clock = clock
        self._key = key
        self._headers: Sequence[Header] = [
            (b"content-type", b"application/json"),
            *([(b"authorization", b"Bearer " + key.encode())] if key else []),
        ]

    async def aclose(self) -> None:
        """Close its connections."""
        await self._transport.aclose()

    def body(self, prompt: str, output_tokens: int) -> bytes:
        """The body of a request. Made before the request is due, it costs its latency nothing."""
        habits = self._habits
        fields: dict[str, object] = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            habits.limit_field: max(1, output_tokens),
        }
        if habits.stream:
            fields["stream"] = True
            if habits.stream_usage:
                fields["stream_options"] = {"include_usage": True}
        if habits.exact_lengths:
            fields["ignore_eos"] = True
        return msgspec.json.encode(fields)

    async def call(self, body: bytes, sample: Sample, due: float) -> None:
        """Make one request and write what became of it into ``sample``, also where it is cancelled on the way.

        ``due`` is the instant, by the caller's clock, at which it was meant to be sent; times count from there.
        """
        sample.provider = self._label
        try:
            for tried in range(self._habits.max_retries + 1):
                sample.client_retries = tried
                wait_s = await self._once(body, sample, due)
                if wait_s is None or tried == self._habits.max_retries:
                    return
                await asyncio.sleep(wait_s if wait_s > 0 else self._back_off_s(tried))
        finally:
            sample.latency_s = self._clock() - due

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
            await (self._read if self._habits.stream else self._read_whole)(response, sample, due)
        finally:
            response.close(linger_s=1.0)
        return None

    async def _refused(self, response: HttpResponse, sample: Sample) -> float | None:
        deadline = asyncio.get_running_loop().time() + self._habits.patience_s
        response.set_deadline(deadline, FailureKind.NO_ANSWER, "the error's body did not come")
        sample.error = f"http_{response.status}"
        _served_by(response, sample)
        try:
            sample.detail = self._without_key((await response.read(MAX_BODY_BYTES)).decode("utf-8", "replace"))[:300]
        except Failure as failure:
            sample.detail = failure.message
        if response.status < 500 and response.status not in RETRIED_STATUSES:
            return None
        return _retry_after_s(response, self._habits.retry_after_limit_s)

    async def _read(self, response: HttpResponse, sample: Sample, due: float) -> None:
        loop = asyncio.get_running_loop()
        patience_s = self._habits.patience_s
        reading = StreamReading()
        what = f"silence for {patience_s:g} s"
        last, events = due, -1
        _served_by(response, sample)
        try:
            while True:
                if reading.events > events:
                    events = reading.events
                    response.set_deadline(loop.time() + patience_s, FailureKind.STREAM_STALLED, what)
                data = await response.chunk()
                if not data:
                    break
                if said := reading.feed(data):
                    now = self._clock()
                    if sample.first_token_s is None:
                        sample.first_token_s = now - due
                        said -= 1
                    else:
                        sample.gaps_s.append(now - last)
                        said -= 1
                    sample.gaps_s.extend((0.0,) * said)  # they arrived together
                    last = now
                if reading.done or reading.error:
                    break
        except Failure as failure:
            sample.error, sample.detail = failure.kind.value, failure.message
        else:
            sample.error, sample.detail = self._verdict(reading)
        self._account(reading, sample, reading.content_events)
        receipt = reading.receipt
        if receipt is not None:
            sample.attempts = receipt.attempts
            sample.cost_usd = sample.cost_usd if receipt.cost_usd is None else receipt.cost_usd
            sample.provider = receipt.provider or sample.provider
            sample.decision = receipt.decision
            sample.joined = receipt.joined or ""

    async def _read_whole(self, response: HttpResponse, sample: Sample, due: float) -> None:
        loop = asyncio.get_running_loop()
        reading = StreamReading()
        estimate = 0
        _served_by(response, sample)
        what = f"no whole answer within {self._habits.patience_s:g} s"
        response.set_deadline(loop.time() + self._habits.patience_s, FailureKind.NO_ANSWER, what)
        try:
            data = await response.read(MAX_BODY_BYTES)
        except Failure as failure:
            sample.error, sample.detail = failure.kind.value, failure.message
        else:
            estimate = reading.feed_whole(data)
            if reading.content_events:
                sample.first_token_s = self._clock() - due
            sample.error, sample.detail = self._verdict(reading)
        self._account(reading, sample, estimate)

    def _account(self, reading: StreamReading, sample: Sample, counted: int) -> None:
        """Take the tokens as the server counts them, else as ``counted`` here."""
        usage = reading.usage
        sample.content_events = reading.content_events
        if usage is None or not usage.counts(something=reading.content_events > 0):
            sample.output_tokens, sample.counted_by = counted, "client"
        else:
            sample.input_tokens, sample.output_tokens = usage.prompt_tokens or 0, usage.completion_tokens or 0
            sample.cached_input_tokens = usage.cached_tokens
        if usage is not None and usage.cost is not None:
            sample.cost_usd = usage.cost

    def _verdict(self, reading: StreamReading) -> tuple[str, str]:
        """The error of an answer that ended, and its words; both empty where it is whole."""
        if reading.whole:
            return "", ""
        words = "the answer ended without a finish reason and without an error"
        return reading.error or TRUNCATED, self._without_key(reading.detail or words)

    def _without_key(self, words: str) -> str:
        """A server may repeat the key that it refuses."""
        return words.replace(self._key, "[key]") if self._key else words

    def _back_off_s(self, tried: int) -> float:
        return min(0.5 * 2.0**tried, 8.0) * (1 - 0.25 * self._rng.random())


def _open(base_url: str) -> Transport:
    # A load generator must not queue behind its own pool: that would be the omission it exists to avoid.
    template = msgspec.structs.replace(endpoint_from_url(base_url), max_connections=8192, provider="target")
    return open_transport(template)


def _served_by(response: HttpResponse, sample: Sample) -> None:
    """What the headers say of how it was served: amaru's, or those of LiteLLM's proxy."""
    headers = response.headers
    provider = headers.get(b"x-amaru-provider") or headers.get(b"x-litellm-model-api-base")
    if provider:
        sample.provider = provider.decode("latin-1").partition("?")[0]  # some put keys into the query of an address
    more = sum(_number(headers, b"x-litellm-attempted-" + what) or 0.0 for what in (b"retries", b"fallbacks"))
    sample.attempts = max(1, int(_number(headers, b"x-amaru-attempts") or 1 + more))
    sample.cost_usd = _number(headers, b"x-amaru-cost-usd")
    if sample.cost_usd is None:
        sample.cost_usd = _number(headers, b"x-litellm-response-cost") or None  # it says 0 where it does not know
    sample.decision = headers.get(b"x-amaru-decision", b"").decode("latin-1")


def _number(headers: Mapping[bytes, bytes], name: bytes) -> float | None:
    """A header's value where it is a plain number, else ``None``."""
    try:
        value = float(headers.get(name, b""))
    except ValueError:
        return None
    return value if 0 <= value < 1e9 else None


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
