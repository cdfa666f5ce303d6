"""The most that an attempt may cost: what is reserved before it, so that concurrent requests cannot overspend.

It must never be too low, and need not be near. Input: no tokenizer makes more tokens of a text than it has bytes of
UTF-8, and a request's JSON has at least as many; the punctuation around each message stands for the tokens of the chat
template. Images, sounds and files count by the most that providers document, see ``estimate_media``; what cannot be
seen, by the window. Output: the caller's limit, which holds for reasoning too, or the offer's own. Each at the dearest
price that can apply.

What has no price per token (a search's fee, another model's price) is in no estimate: ``unpriced`` tells of it.
"""

from __future__ import annotations

import functools

import msgspec
from msgspec import Raw, Struct

from amaru.accounts.estimate_media import MAX_IMAGE_TOKENS, media_of
from amaru.accounts.money import nusd_up
from amaru.accounts.pricing import Rates, rates_of
from amaru.domain import Kind, Offer, Price
from amaru.protocols.openai import OpenAIRequest
from amaru.protocols.surcharges import SURCHARGE_FIELDS, Surcharge, runs_tools, surcharges_of

PROMPT_TOKENS = 256
"""What a provider may put before a prompt by itself: a chat template's own system message (gpt-oss: some 100)."""
TOOLS_TOKENS = 1024
"""And where tools are given, their instructions (Anthropic, "Tool use": up to 735)."""
MAX_WINDOW_TOKENS = 2**20
"""Of what is read from elsewhere (a file, a link to a sound, a search), where the offer names no context window."""
MAX_OUTPUT_TOKENS = 131_072
"""Of one answer without a limit, where the offer names neither its longest answer nor its context window."""

_READS_MORE = frozenset(
    (
        "web_search_options",
        "search_parameters",
        "enable_search",
        "plugins",
        "compound_custom",
        "preset",
        "data_sources",  # Azure: an index to search
        "extra_body",  # Gemini: a part of a prompt that is kept there
        "cached_content",
        "previous_response_id",
        "conversation",
        "chat_template",  # vLLM: the caller's own, which may repeat a message
        "mm_processor_kwargs",  # vLLM: into how many tokens an image is cut
    )
)
"""Fields by which a provider puts more into a prompt than it was sent, or says otherwise what it counts as."""
_LIMITS_TOO = frozenset(("n_predict", "max_new_tokens", "max_output_tokens", "max_length", "num_predict"))
"""Fields that some server heeds as a limit, before the limit of OpenAI's API (llama.cpp: ``n_predict``)."""
_TOLD = SURCHARGE_FIELDS | _READS_MORE | _LIMITS_TOO
_TOLD |= frozenset(("functions", "response_format", "prediction", "modalities", "audio", "best_of", "echo"))
"""Every field by which a request costs other than its text and its limit say."""
_CACHE_MARKS = (b"cache_control", b"\\u00")
"""By which a request asks for cache writes; the second may be a letter of the first, written as an escape."""


class Bounds(Struct, gc=False):
    """What bounds a request's cost whoever serves it; computed once for all of its attempts."""

    request: OpenAIRequest
    text_tokens: int
    output_tokens: int | None
    """Over all choices; ``None``: the caller set no limit."""
    choices: int
    more_output_tokens: int = 0
    """That no limit holds for: of a prompt that is repeated, and of a prediction that came out wrong."""
    images: int = 0
    audio_tokens: int = 0
    reads_more: bool = False
    """It may have the provider read what does not stand in it: only the context window bounds that."""
    is_text: bool = True
    """Nothing else stands in it, and nothing else is read."""
    may_speak: bool = False
    surcharges: tuple[Surcharge, ...] = ()
    """By which it may cost what is in no price of a token: see ``unpriced``."""
    _may_write_cache: bool | None = None

    def may_write_cache(self) -> bool:
        """Whether it asks the provider to keep a part of it; looked up where that costs extra."""
        if self._may_write_cache is None:
            fields = self.request.fields
            data = b"".join(fields.values())
            self._may_write_cache = "cache_control" in fields or any(mark in data for mark in _CACHE_MARKS)
        return self._may_write_cache


def bounds_of(request: OpenAIRequest) -> Bounds:
    """The bounds of a request; some hundred nanoseconds where it is all text."""
    fields = request.fields
    size = PROMPT_TOKENS
    for raw in fields.values():
        size += len(memoryview(raw))
    bounds = Bounds(request, size, request.max_output_tokens, request.choices)
    if not _TOLD.isdisjoint(fields):
        _add_told(bounds, fields)
    if request.kind is Kind.CHAT and not request.only_text:
        media = media_of(fields["messages"])
        bounds.text_tokens -= media.bytes
        bounds.images, bounds.audio_tokens = media.images, media.audio_tokens
        bounds.reads_more = bounds.reads_more or media.reads_more
    bounds.is_text = request.only_text and not bounds.reads_more
    return bounds


def _add_told(bounds: Bounds, fields: dict[str, Raw]) -> None:
    """What the fields in ``_TOLD`` make of it."""
    request = bounds.request
    bounds.surcharges = surcharges_of(fields)
    if "best_of" in fields:
        _add_best_of(bounds, fields["best_of"])
    if not _LIMITS_TOO.isdisjoint(fields):
        bounds.output_tokens = None
    bounds.reads_more = not _READS_MORE.isdisjoint(fields)
    if request.kind is Kind.COMPLETION:
        if "echo" in fields:  # it may bill the prompt as output
            bounds.more_output_tokens = request.n * bounds.text_tokens
    elif request.kind is Kind.CHAT:
        for name in ("tools", "functions", "response_format"):
            if name in fields:
                more = 0 if name == "response_format" else TOOLS_TOKENS
                bounds.text_tokens += more + _laid_out(bytes(fields[name]))
        if "prediction" in fields:
            bounds.more_output_tokens = bounds.choices * len(memoryview(fields["prediction"]))
        bounds.may_speak = "modalities" in fields or "audio" in fields
        bounds.reads_more = bounds.reads_more or runs_tools(bounds.surcharges)


def _add_best_of(bounds: Bounds, best_of: Raw) -> None:
    """So many are generated and billed, whatever is shown of them; vLLM takes the number as text, too."""
    n = bounds.request.n
    try:
        made = msgspec.json.decode(best_of, type=int | None, strict=False) or 0
    except msgspec.ValidationError:  # the provider's to refuse
        return
    if made > n:
        bounds.choices = bounds.choices // n * made
        if bounds.output_tokens is not None:
            bounds.output_tokens = bounds.output_tokens // n * made


def _laid_out(schema: bytes) -> int:
    """Tokens that chat templates may add to JSON by a line and an indent for each of its values."""
    return 2 * schema.count(b",") + 4 * (schema.count(b"{") + schema.count(b"["))


def unpriced(bounds: Bounds, offer: Offer) -> str | None:
    """The field of a request of which an offer's price does not say what it costs; ``None``: there is none.

    Free offers have none: whatever they do costs nothing.
    """
    price = offer.price
    for surcharge in bounds.surcharges:
        if surcharge.field in offer.price_covers or _is_free(price):
            continue
        tier = surcharge.service_tier
        if tier is None or all(tier != each.service_tier for each in price.tiers):
            return surcharge.field
    return None


def upper_nusd(price: Price, bounds: Bounds, offer: Offer) -> int:
    """The most that one attempt at ``offer`` may cost at ``price``, in nano-dollars.

    An offer's context window bounds input and answer, so one that is told smaller than it is makes this too low.
    """
    choices, window = bounds.choices, offer.context_window_tokens
    output_tokens = upper_output_tokens(bounds, offer)
    input_tokens, image_tokens = bounds.text_tokens + bounds.audio_tokens, 0
    if bounds.images:
        image_tokens = bounds.images * (offer.max_image_tokens or MAX_IMAGE_TOKENS)
        input_tokens += image_tokens
    most = MAX_WINDOW_TOKENS if window is None else window
    fills_window = bounds.reads_more or (window is not None and input_tokens > most * choices)
    if fills_window:
        input_tokens = most * choices
    for rates in _dearest(price):
        if input_tokens > rates.above_input_tokens:
            break
    text, image, audio = rates.text, rates.image, rates.audio
    if rates.write > text and bounds.may_write_cache():
        text, image, audio = rates.write, max(image, rates.write), max(audio, rates.write)
    if bounds.is_text:
        pusd = input_tokens * text
    elif fills_window:  # there is no telling with what
        pusd = input_tokens * max(image, audio)
    else:
        pusd = bounds.text_tokens * text + image_tokens * image + bounds.audio_tokens * audio
    if bounds.request.kind is not Kind.EMBEDDING:
        pusd += output_tokens * (rates.spoken if bounds.may_speak else rates.output)
    return nusd_up(pusd)


def upper_tokens(bounds: Bounds, offer: Offer) -> int:
    """The most tokens, of input and output together, that one attempt at ``offer`` may be counted as."""
    window = offer.context_window_tokens
    most = (MAX_WINDOW_TOKENS if window is None else window) * bounds.choices
    input_tokens = bounds.text_tokens + bounds.audio_tokens
    input_tokens += bounds.images * (offer.max_image_tokens or MAX_IMAGE_TOKENS)
    if bounds.reads_more or (window is not None and input_tokens > most):
        input_tokens = most
    return input_tokens + (0 if bounds.request.kind is Kind.EMBEDDING else upper_output_tokens(bounds, offer))


def most_output_tokens(offer: Offer) -> int:
    """Of one answer without a limit."""
    return offer.max_output_tokens or offer.context_window_tokens or MAX_OUTPUT_TOKENS


def upper_output_tokens(bounds: Bounds, offer: Offer) -> int:
    """The most output of all choices of one attempt."""
    limit = None if offer.bills_beyond_limit else bounds.output_tokens
    tokens = most_output_tokens(offer) * bounds.choices
    return (limit if limit is not None and limit < tokens else tokens) + bounds.more_output_tokens


@functools.lru_cache(maxsize=4096)
def _is_free(price: Price) -> bool:
    return not any(dearest.write or dearest.audio or dearest.image or dearest.spoken for dearest in _dearest(price))


class _Dearest(Struct, frozen=True, gc=False):
    """The dearest rates, in pico-dollars per token, of requests with more input tokens than so many.

    No kind is cheaper than the one that it is a part of: a provider that does not report it charges it as that.
    """

    above_input_tokens: int
    text: int
    write: int
    image: int
    audio: int
    output: int
    spoken: int


@functools.lru_cache(maxsize=4096)
def _dearest(price: Price) -> tuple[_Dearest, ...]:
    """For the longest prompts first, and then for all. A longer bound reaches every tier below it as well."""
    usual = rates_of(price)
    lengths = sorted({0, *(tier.above_input_tokens for tier in usual.tiers)}, reverse=True)
    return tuple(
        _dearest_of(above, [usual, *(t.rates for t in usual.tiers if t.above_input_tokens <= above)])
        for above in lengths
    )


def _dearest_of(above: int, reached: list[Rates]) -> _Dearest:
    text = max(max(rates.input, rates.cached_input) for rates in reached)
    output = max(max(rates.output, rates.reasoning, rates.image_output) for rates in reached)
    return _Dearest(
        above,
        text,
        max(max(rates.cache_write, rates.cache_write_1h) for rates in reached),
        max(text, *(rates.image_input for rates in reached)),
        max(text, *(rates.audio_input for rates in reached)),
        output,
        max(output, *(rates.audio_output for rates in reached)),
    )
