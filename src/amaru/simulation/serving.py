"""One inference request at a simulated provider, from its checks to its bill."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable

import msgspec

from amaru.domain import Kind, Price, ServiceTier, Usage
from amaru.errors import RequestError
from amaru.http1.request import Request
from amaru.simulation.answers import Choice, base64_floats, choices_for, embedding_of
from amaru.simulation.asks import Ask, size_of, understand, understand_embedding
from amaru.simulation.billing import Bill, key_label
from amaru.simulation.breaking import EVENT_STREAM, JSON, Broken, break_body, break_head, break_stream
from amaru.simulation.editing import edited_body, edited_choices, edited_event, unstreamed
from amaru.simulation.faults import Fault, Point
from amaru.simulation.profiles import ProviderProfile
from amaru.simulation.prompt_cache import PromptCache, kept_tokens
from amaru.simulation.rates import Headers, RateLimits, Slots
from amaru.simulation.speed import Speed
from amaru.simulation.striking import Faults, Plan
from amaru.simulation.wire import DONE, Event, Identity, StreamWriter, usage_of, whole_body

HEAD_POINTS: tuple[Point, ...] = ("head", "half_head")
ALL_POINTS: tuple[Point, ...] = ("first_byte", "mid", "last", "done")


class Job(msgspec.Struct):
    """What one request asks and what became of it so far."""

    ask: Ask
    choices: list[Choice]
    usage: Usage
    identity: Identity
    headers: Headers
    plan: Plan | None
    key: str
    price: Price
    version: str
    """Of the API, as the request's path names it."""
    generation: int
    """Of the faults, when they were last looked at."""
    made_tokens: int = 0
    """Of the answer, the thoughts before it included."""
    began: bool = False
    """Its first token was made: from here on it is billed."""

    def used(self) -> Usage:
        """What is billed: the prompt, and what was made of the answer."""
        details = self.usage.details
        if details is not None:
            reasoning = min(details.reasoning_tokens, self.made_tokens)
            details = msgspec.structs.replace(details, reasoning_tokens=reasoning)
        return msgspec.structs.replace(self.usage, output_tokens=self.made_tokens, details=details)


class Inference:
    """Serves chats, completions and embeddings of one profile.

    ``clock`` gives Unix seconds; ``rng`` draws the latencies.
    """

    def __init__(
        self, profile: ProviderProfile, faults: Faults, bill: Bill, clock: Callable[[], float], rng: random.Random
    ) -> None:
        self.profile = profile
        self.faults = faults
        self.bill = bill
        self.slots = Slots(self._capacity, profile.queue)
        self._speed = Speed(profile.latency, lambda: self.slots.load, rng)
        self._cache = PromptCache()
        self._limits: dict[str, RateLimits] = {}
        self._clock = clock
        self._made_ids = 0

    def _capacity(self) -> int:
        fault = self.faults.of_kind("capacity")
        return self.profile.capacity if fault is None or fault.capacity is None else fault.capacity

    def _price(self) -> Price:
        fault = self.faults.of_kind("price")
        return self.profile.price if fault is None or fault.price is None else fault.price

    async def serve(self, request: Request, kind: Kind, version: str = "v1") -> None:
        """Answer ``request``; every refusal and every fault is an answer too."""
        try:
            if kind is Kind.EMBEDDING:
                await self._embed(request, version)
            else:
                await self._generate(request, kind, version)
        except Broken:
            pass
        except RequestError as error:
            refuse(request, error)

    # --- checks -----------------------------------------------------------------------------------------------------

    def _key_of(self, request: Request) -> str:
        scheme, _, token = request.headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else ""
        if self.profile.keys and key not in self.profile.keys:
            words = "Incorrect API key provided." if key else "You didn't provide an API key."
            raise RequestError(401, words, code="invalid_api_key")
        return key_label(key)

    def _known(self, model: str, models: tuple[str, ...]) -> None:
        if model not in models:
            words = f"The model `{model}` does not exist or you do not have access to it."
            raise RequestError(404, words, code="model_not_found", param="model")

    def _fits(self, ask: Ask) -> None:
        window = self.profile.context_window_tokens
        total = ask.prompt_tokens + (ask.limit or 0)
        if ask.prompt_tokens >= window or total > window:
            words = (
                f"This model's maximum context length is {window} tokens. However, you requested {total} tokens "
                f"({ask.prompt_tokens} in the messages, {ask.limit or 0} in the completion). Please reduce the length "
                "of the messages or completion."
            )
            raise RequestError(400, words, code="context_length_exceeded", param="messages")
        if self.profile.prefill == "reject" and ask.prefill is not None:
            raise RequestError(400, "The last message must come from the user: this model does not continue an answer.")

    def _admit(self, key: str, tokens: int) -> Headers:
        profile = self.profile
        if profile.requests_per_min is None and profile.tokens_per_min is None:
            return []
        now = self._clock()
        limits = self._limits.get(key)
        if limits is None:
            limits = self._limits[key] = RateLimits(profile.requests_per_min, profile.tokens_per_min, now)
        refused = limits.admit(tokens, now)
        if refused is not None:
            name, wait_s = refused
            words = f"Rate limit reached for {name} per min. Please try again in {math.ceil(wait_s * 1000)}ms."
            raise RequestError(429, words, type=name, code="rate_limit_exceeded", retry_after_s=wait_s)
        return limits.headers(now)

    async def _enter(self) -> None:
        if not await self.slots.acquire():
            status = self.profile.overload_status
            words = "The engine is currently overloaded, please try again later."
            kind = "overloaded_error" if status == 529 else "server_error"
            raise RequestError(status, words, type=kind, retry_after_s=1.0)

    def _identity(self, ask: Ask, tier: ServiceTier | None) -> Identity:
        self._made_ids += 1
        prefix = "chatcmpl" if ask.kind is Kind.CHAT else "cmpl"
        return Identity(
            id=f"{prefix}-{self.profile.name}-{self._made_ids}",
            created=int(self._clock()),
            model=ask.model,
            system_fingerprint=f"fp_{self.profile.name}",
            service_tier=None if ask.service_tier is None else tier or "default",
        )

    # --- chats and completions --------------------------------------------------------------------------------------

    async def _generate(self, request: Request, kind: Kind, version: str) -> None:
        ask = understand(kind, request.body, self.profile.limit_fields)
        generation = self.faults.generation
        plan = self.faults.plan(model=ask.model, stream=ask.stream, version=version)
        if plan is not None:
            await _strike_head(request, plan)
        key = self._key_of(request)
        self._known(ask.model, self.profile.models)
        self._fits(ask)
        headers = self._admit(key, ask.prompt_tokens + (ask.limit or 0))
        choices = choices_for(ask, self.profile)
        if plan is not None:
            choices = edited_choices(choices, plan.edits)
        await self._enter()
        try:
            price = self._price()
            tier = _tier_of(ask, price)
            identity = self._identity(ask, tier)
            job = Job(
                ask=ask,
                choices=choices,
                usage=self._usage(ask, choices, tier),
                identity=identity,
                headers=[(b"x-request-id", identity.id.encode()), *headers],
                plan=plan,
                key=key,
                price=price,
                version=version,
                generation=generation,
            )
            try:
                streams = ask.stream and not (plan is not None and unstreamed(plan.edits))
                await (self._stream(request, job) if streams else self._whole(request, job))
            finally:
                if job.began:
                    self.bill.charge(key, job.price, job.used(), id=identity.id, model=identity.model, at=self._clock())
        finally:
            self.slots.release()

    def _usage(self, ask: Ask, choices: list[Choice], tier: ServiceTier | None) -> Usage:
        profile = self.profile
        cached = self._cache.look_up(ask.prompt) if profile.caches_prompts else 0
        writes = profile.caches_prompts and profile.cache_writes and ask.cache_ttl is not None
        written = kept_tokens(ask.prompt) - cached if writes else 0
        return usage_of(ask, choices, cached_tokens=cached, written_tokens=written, service_tier=tier)

    async def _first_token(self, job: Job) -> None:
        usage, plan = job.usage, job.plan
        reasoning = sum(choice.reasoning_tokens for choice in job.choices)
        wait_s = self._speed.first_token_s(usage.input_tokens - usage.cached_input_tokens)
        if reasoning:
            wait_s += self._speed.tokens_s(reasoning)
        if plan is not None:
            wait_s = wait_s * plan.factor + plan.delay_ms / 1000
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        job.made_tokens = reasoning
        job.began = True

    async def _whole(self, request: Request, job: Job) -> None:
        await self._first_token(job)
        thought, total = job.made_tokens, job.usage.output_tokens
        wait_s = self._speed.tokens_s(total - thought) * (job.plan.factor if job.plan else 1.0)
        if wait_s > 0:
            loop = asyncio.get_running_loop()
            began = loop.time()
            try:
                await asyncio.sleep(wait_s)
            except asyncio.CancelledError:
                job.made_tokens = min(total, thought + int((total - thought) * (loop.time() - began) / wait_s))
                raise
        job.made_tokens = total
        headers = [JSON, *job.headers]
        body = whole_body(job.ask, job.identity, job.choices, job.usage)
        self._look_again(job)
        fault = _first_of(job.plan)
        if fault is not None:
            _waive_error(fault, job)
            await break_body(request, fault, headers, body)
        request.respond(200, headers, body if job.plan is None else edited_body(body, job.plan.edits))

    async def _stream(self, request: Request, job: Job) -> None:
        asked = job.ask.include_usage and self.profile.stream_usage
        writer = StreamWriter(job.ask, job.identity, job.choices, job.usage if asked else None)
        await self._first_token(job)
        request.start(200, [EVENT_STREAM, (b"cache-control", b"no-cache"), *job.headers])
        send = _Sender(self, request, job)
        opening = writer.opening()
        if not opening:
            await send.reach("first_byte")
        for place, event in enumerate(opening):
            await send.event(event, "first_byte" if place == 0 else None)
        loop = asyncio.get_running_loop()
        due = loop.time()
        for place, event in enumerate(writer.content(self.profile.tokens_per_event)):
            if place > 0:
                due += self._speed.tokens_s(event.tokens) * (job.plan.factor if job.plan else 1.0)
                wait_s = due - loop.time()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
            await send.event(event, "mid", place)
        for place, event in enumerate(writer.closing()):
            await send.event(event, "last" if place == 0 else None)
        await send.event(Event(DONE), "done")
        request.end()

    def _look_again(self, job: Job) -> None:
        """Take over the faults that were switched on since, and strike answers under way."""
        if self.faults.generation == job.generation:
            return
        newer = self.faults.plan(model=job.ask.model, stream=job.ask.stream, version=job.version, since=job.generation)
        job.generation = self.faults.generation
        if newer is None:
            return
        if job.plan is not None:
            newer.factor *= job.plan.factor
            newer.breaks = {**newer.breaks, **job.plan.breaks}
            newer.edits = job.plan.edits + newer.edits
        job.plan = newer

    # --- embeddings -------------------------------------------------------------------------------------------------

    async def _embed(self, request: Request, version: str) -> None:
        body = understand_embedding(request.body)
        plan = self.faults.plan(model=body.model, stream=False, version=version)
        if plan is not None:
            await _strike_head(request, plan)
        key = self._key_of(request)
        self._known(body.model, self.profile.embedding_models)
        texts = body.texts()
        if not texts:
            raise RequestError(400, "input must hold at least one text", param="input")
        tokens = max(1, sum(size_of(text) for text in texts))
        headers = [JSON, *self._admit(key, tokens)]
        await self._enter()
        try:
            wait_s = self._speed.first_token_s(tokens) * (plan.factor if plan else 1.0)
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            vectors = [embedding_of(text, body.dimensions or self.profile.embedding_dimensions) for text in texts]
            binary = body.encoding_format == "base64"
            answer = {
                "object": "list",
                "data": [
                    {
                        "object": "embedding",
                        "index": index,
                        "embedding": base64_floats(vector) if binary else vector.tolist(),
                    }
                    for index, vector in enumerate(vectors)
                ],
                "model": body.model,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
            self.bill.charge(key, self._price(), Usage(tokens, 0), model=body.model, at=self._clock())
            fault = _first_of(plan)
            if fault is not None:
                await break_body(request, fault, headers, msgspec.json.encode(answer))
            told = msgspec.json.encode(answer)
            request.respond(200, headers, told if plan is None else edited_body(told, plan.edits))
        finally:
            self.slots.release()


class _Sender:
    """Writes the events of one stream, and lets faults strike where they are due."""

    def __init__(self, inference: Inference, request: Request, job: Job) -> None:
        self._inference = inference
        self._request = request
        self._job = job

    async def reach(self, point: Point, place: int | None = None, event: bytes = b"") -> bool:
        """Let a fault strike at ``point``; True where it took the place of ``event``."""
        job = self._job
        if self._inference.faults.generation != job.generation:
            self._inference._look_again(job)
        if job.plan is None:
            return False
        fault = job.plan.breaks.get(point)
        if point == "last" and fault is None:
            fault = job.plan.breaks.get("mid")  # an answer too short to have such a middle
        if fault is None or (point == "mid" and place is not None and place < fault.after_events):
            return False
        del job.plan.breaks[fault.point]
        _waive_error(fault, job)
        return await break_stream(self._request, fault, event)

    async def event(self, event: Event, point: Point | None, place: int | None = None) -> None:
        """Send one event, unless a fault takes its place."""
        if point is None or not await self.reach(point, place, event.data):
            plan = self._job.plan
            await self._request.write(event.data if plan is None else edited_event(event.data, plan.edits))
        self._job.made_tokens += event.tokens


async def _strike_head(request: Request, plan: Plan) -> None:
    for point in HEAD_POINTS:
        fault = plan.breaks.get(point)
        if fault is not None:
            await break_head(request, fault)


def _waive_error(fault: Fault, job: Job) -> None:
    """An error that only looks like a 200 made no token, so it is not billed."""
    if fault.kind == "error_in_200":
        job.began = False


def _tier_of(ask: Ask, price: Price) -> ServiceTier | None:
    """The service tier that the request asks for, where the provider has a price for it."""
    return next((tier.service_tier for tier in price.tiers if tier.service_tier == (ask.service_tier or "")), None)


def _first_of(plan: Plan | None) -> Fault | None:
    if plan is None:
        return None
    return next((plan.breaks[point] for point in ALL_POINTS if point in plan.breaks), None)


def refuse(request: Request, error: RequestError) -> None:
    """Answer with OpenAI's error object."""
    fields = [JSON]
    if error.retry_after_s is not None:
        fields.append((b"retry-after", b"%d" % math.ceil(error.retry_after_s)))
        fields.append((b"retry-after-ms", b"%d" % math.ceil(error.retry_after_s * 1000)))
    body = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    request.respond(error.status, fields, msgspec.json.encode({"error": body}))
