"""Every error a provider can answer with, and the one ``Failure`` it becomes.

Three tables, asked in this order: the error's own code, which is the most specific; its words, where providers have no
code for it; its status. Above this module nobody looks at a status or a code of a provider again.

Some failures put an offer out of service for everybody, until a person mends it. An error is one of these only where it
speaks of what the operator has set, the model, the key, the account or the address: a 403 and a 404 also answer a file
or an image of one caller's, who must not take the offer from the others.

What a ``Failure`` says is logged and stored, so it is in our words, with the error's code where that is a name. What
the provider says may quote the prompt, or a key: without keys it goes to the caller alone, in ``body``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from amaru.domain import FailureKind
from amaru.errors import Failure
from amaru.protocols.wire_errors import WireError, read_error
from amaru.providers.retry_after import retry_after_s

MAX_MESSAGE_CHARS = 500
MAX_BODY_BYTES = 64 * 1024
"""Of an error's body; what a provider says beyond it is not read."""

_F = FailureKind

CODES: dict[str, FailureKind] = {
    # OpenAI and Azure, then their imitators; compared in lower case with "-" as "_".
    **dict.fromkeys(("rate_limit_exceeded", "rate_limit_error", "too_many_requests"), _F.RATE_LIMITED),
    **dict.fromkeys(("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error",
                     "insufficient_balance", "payment_required", "insufficient_credits", "quota_exceeded"),
                    _F.QUOTA_EXHAUSTED),
    **dict.fromkeys(("invalid_api_key", "authentication_error", "api_key_invalid", "account_deactivated",
                     "invalid_authentication", "unsupported_country_region_territory"), _F.BAD_CREDENTIALS),
    **dict.fromkeys(("model_not_found", "deploymentnotfound", "model_not_available", "unknown_model", "invalid_model",
                     "model_not_supported", "model_decommissioned", "unknown_url"), _F.UNKNOWN_MODEL),
    **dict.fromkeys(("context_length_exceeded", "exceed_context_size_error", "context_window_exceeded",
                     "prompt_too_long", "request_too_large", "string_above_max_length"), _F.CONTEXT_TOO_LONG),
    **dict.fromkeys(("content_policy_violation", "content_filter", "responsibleaipolicyviolation",
                     "moderation_blocked", "content_filtered", "data_inspection_failed", "cyber_policy_violation"),
                    _F.CONTENT_REJECTED),
    **dict.fromkeys(("overloaded_error", "engine_overloaded", "model_overloaded"), _F.OVERLOADED),
}  # fmt: skip
"""Codes (and types) so specific that they outrank the status that they came with."""

GENERIC_CODES: dict[str, FailureKind] = {
    **dict.fromkeys(("requests", "tokens", "rate_limited", "resource_exhausted"), _F.RATE_LIMITED),
    **dict.fromkeys(("permission_error", "permission_denied", "unauthenticated", "unauthorized", "forbidden"),
                    _F.BAD_CREDENTIALS),
    **dict.fromkeys(("not_found_error", "not_found", "notfounderror"), _F.UNKNOWN_MODEL),
    **dict.fromkeys(("invalid_request_error", "bad_request", "badrequesterror", "invalid_argument", "validation",
                     "invalid_value", "failed_precondition"), _F.BAD_REQUEST),
    **dict.fromkeys(("unavailable", "service_unavailable", "service_unavailable_error", "serviceunavailableerror"),
                    _F.OVERLOADED),
    **dict.fromkeys(("timeout", "timeout_error", "request_timeout", "deadline_exceeded"), _F.NO_ANSWER),
}  # fmt: skip
"""What stands for a status in an error object that came without one, inside a 200."""

STATUSES: dict[int, FailureKind] = {
    400: _F.BAD_REQUEST,
    401: _F.BAD_CREDENTIALS,
    402: _F.QUOTA_EXHAUSTED,
    403: _F.BAD_CREDENTIALS,  # if it speaks of the key, see _speaks_of_the_offer; so for 404 and 410
    404: _F.UNKNOWN_MODEL,  # or a wrong base_url: broken until fixed, either way
    405: _F.UNKNOWN_MODEL,  # a base_url that leads elsewhere
    407: _F.BAD_CREDENTIALS,  # of the proxy on the way
    408: _F.NO_ANSWER,  # the provider gave up waiting for itself: to ask it twice would cost as much again
    410: _F.UNKNOWN_MODEL,  # retired
    413: _F.CONTEXT_TOO_LONG,  # too large for this provider; one that takes more may do
    424: _F.SERVER_ERROR,  # a model that broke behind the server (TGI)
    425: _F.SERVER_ERROR,
    429: _F.RATE_LIMITED,
    451: _F.CONTENT_REJECTED,
    499: _F.SERVER_ERROR,  # a proxy in between lost us (nginx)
    503: _F.OVERLOADED,
    529: _F.OVERLOADED,
}
"""Other 4xx are bad requests; other 5xx, redirections and all else are server errors."""

_NONE = 200  # an error object without a status of its own, inside a 200

WORDS: tuple[tuple[FailureKind, frozenset[int], re.Pattern[str]], ...] = tuple(
    (kind, frozenset(statuses), re.compile(pattern, re.IGNORECASE | re.DOTALL))
    for kind, statuses, pattern in (
        # Those that mark a provider as broken are bound to the start of the message: a message may quote the prompt.
        (_F.QUOTA_EXHAUSTED, (400, 403, 429, _NONE),
         r"(your )?(account )?(credit balance is too low|insufficient (account )?(balance|credits?|funds))"),
        (_F.BAD_CREDENTIALS, (400, _NONE),
         (r"(incorrect|invalid) (api[ _-]?key|auth\w* (token|key|header|credentials?)\b|auth\w*\W*$)"
          r"|(the )?api key (is )?(not valid|invalid)")),
        (_F.UNKNOWN_MODEL, (400, 403, 422, _NONE),
         (r"(the |requested )*model[\s:]+(\S{1,120} )?((is|was|does|has) )?(not exist|not found|not supported"
          r"|not available)|(unknown|no such) model(:| [`'\"]|\W*$)|\S{1,120} is not a valid model\b")),
        # vLLM, SGLang, llama.cpp, Ollama, TGI, Azure, Anthropic, Gemini, Mistral, in their own words.
        (_F.CONTEXT_TOO_LONG, (400, 413, 422, 500, _NONE),
         (r".*?(maximum context length|maximum model length|context[ _]length[ _]exceeded|exceed context limit"
          r"|(exceeds?|longer than|larger than|greater than|beyond)\b.{0,60}?\bcontext ?(length|window|size|limit)"
          r"|prompt is too long|input (is )?too long|too many input tokens|reduce the length of the"
          r"|input token count.{0,60}exceeds|`inputs` tokens \+ `max_new_tokens` must be|too large for model with)")),
        (_F.CONTENT_REJECTED, (400, 403, 422, _NONE),
         (r".*?(content (management )?policy|content[ _]filter|safety system|moderation|was flagged|usage polic"
          r"|inappropriate content)")),
        (_F.OVERLOADED, (500, _NONE), r".*?(overloaded|at capacity|server is busy|no (available|healthy) )"),
        (_F.RATE_LIMITED, (_NONE,), r".*?(rate limit|too many requests)"),
    )
)  # fmt: skip
"""Where a provider has no code for it: the statuses that it sends with such words, and the words, from the start."""

BROKEN = frozenset((_F.BAD_CREDENTIALS, _F.QUOTA_EXHAUSTED, _F.UNKNOWN_MODEL))
"""The rows that put an offer out of service for everybody."""

_ALSO_THE_CALLERS = frozenset((403, 404, 410, _NONE))
_OFFERS_PARAMS = frozenset(("", "model", "engine", "deployment", "api_key", "authorization"))
_WEB_PAGE = "The provider answered with a web page."
_I = re.IGNORECASE
# All are bound to the start of the message, and lead to their noun over words of a list: the rest may be the caller's.
_OF_THE_MODEL = re.compile(
    r"((the|this|your|requested|specified|selected|given|publisher|unknown|invalid|unsupported|no|such|api"
    r"|unable to (find|access)|(could|can) ?not find)\s+)*[`'\"]?(models?|deployment|engine)\b"
    r"|no (endpoints found for|allowed providers are available for) |\S{1,120} is not a valid model\b"
    # A wrong address: what web frameworks say where they serve nothing.
    r"|(invalid|unknown|unrecognized) (request )?url\b|no route matched|cannot post |the requested url was not found"
    r"|\W*(error\W+)?(404\W+)?((the |this )?(requested )?(page|resource|route|path|endpoint|url)\W+)?"
    r"((was|is|could) )?not (be )?found\W*$",
    _I,
)
_OF_THE_KEY = re.compile(
    r"((the|this|your|an?|invalid|missing|expired|incorrect|no|permission denied:)\s+)*[`'\"]?"
    r"(api[ _-]?key|key (limit|is|was|has|does)|(access|auth|bearer|api) token|account|organi[sz]ation|project|team"
    r"|workspace|subscription|credentials?|consumer|caller|country|user (is|was|has|does)|not auth\w+|unauthori[sz]ed"
    r"|auth(entication|ori[sz]ation) (required|failed|token|header)|permission denied\W*$"
    r"|you (do not|don't|are not|have insufficient))\b",
    _I,
)
_OF_THE_CALLER = re.compile(r"\b(files?|images?|videos?|audio|documents?|attachments?|url)\b", _I)
_REFUSAL_PAGE = re.compile(
    rf"{re.escape(_WEB_PAGE)}|[^a-z]*$"
    r"|\W*(error\W+)?(403\W+)?(forbidden|access (is )?denied|((your )?request )?((was|is) )?blocked)\W*$",
    _I,
)
"""A 403 of a firewall on the way, or one that says nothing: a matter between it and this prompt, or of the moment."""

IN_THE_PROVIDERS_WORDS = frozenset((_F.CONTEXT_TOO_LONG, _F.CONTENT_REJECTED, _F.BAD_REQUEST))
"""The rows whose caller sees what the provider said (``Failure.body``)."""

_SAYING: dict[FailureKind, str] = {
    _F.RATE_LIMITED: "the provider's rate limit is reached",
    _F.OVERLOADED: "the provider is overloaded",
    _F.SERVER_ERROR: "the provider failed",
    _F.NO_ANSWER: "the provider gave up waiting for its own answer",
    _F.CONTEXT_TOO_LONG: "the request is too long for the model",
    _F.CONTENT_REJECTED: "the provider rejected the content",
    _F.BAD_REQUEST: "the provider refused the request",
    _F.BAD_CREDENTIALS: "the provider refused its key; check key_env or key_file of the provider",
    _F.QUOTA_EXHAUSTED: "the provider's quota or credit is used up; top it up at the provider",
    _F.UNKNOWN_MODEL: "the provider does not know the model; check the offer's model and the provider's base_url",
}


def failure_from_response(
    status: int, headers: Mapping[bytes, bytes], body: bytes, *, now_s: float, secrets: Collection[str] = ()
) -> Failure:
    """The failure that an HTTP answer other than 2xx means.

    ``headers`` have lower-case names; ``now_s`` is Unix time; ``secrets`` are what must not appear in what comes out.
    """
    error = _read_body(body)
    if 300 <= status < 400:
        message = "the provider redirects; set the provider's base_url to where its API lives now"
        return Failure(_F.SERVER_ERROR, message, status=status, bytes_received=len(body))
    return _failure(error, status, headers, now_s, secrets, len(body))


def failure_from_error(
    error: WireError,
    status: int,
    headers: Mapping[bytes, bytes],
    *,
    now_s: float,
    secrets: Collection[str] = (),
    bytes_received: int = 0,
) -> Failure:
    """The failure that an error object inside an answer of HTTP status ``status`` (a 2xx) means."""
    return _failure(error, status, headers, now_s, secrets, bytes_received)


def classify(status: int, error: WireError) -> FailureKind:
    """The row of the taxonomy. ``status`` is HTTP's; below 300 the one that the error itself names counts."""
    kind = _classify(status, error)
    param = error.fields.get("param")
    if kind in BROKEN and isinstance(param, str) and param not in _OFFERS_PARAMS:
        return _F.BAD_REQUEST  # whatever else it says, it is about a field of the request
    return kind


def _classify(status: int, error: WireError) -> FailureKind:
    names = [name.lower().replace("-", "_") for name in (error.code, error.type) if name is not None]
    for name in names:
        if name in CODES:
            return CODES[name]
    said = status if status >= 300 else error.status or _NONE
    for kind, statuses, words in WORDS:
        if said in statuses and words.match(error.message[:4096]):
            return kind
    generic = next((GENERIC_CODES[name] for name in names if name in GENERIC_CODES), None)
    if said == _NONE:
        kind = generic or _F.SERVER_ERROR
    else:
        kind = STATUSES.get(said) or (_F.BAD_REQUEST if 400 <= said < 500 else _F.SERVER_ERROR)
    if kind in BROKEN and said in _ALSO_THE_CALLERS and not _speaks_of_the_offer(kind, error, generic is kind):
        return _F.SERVER_ERROR if said == 403 and _REFUSAL_PAGE.match(error.message) else _F.BAD_REQUEST
    return kind


def _speaks_of_the_offer(kind: FailureKind, error: WireError, named: bool) -> bool:
    """Whether a refusal is about what the operator set; ``named``: its code or type says it, if only in general."""
    words = error.message[:4096]
    if kind is _F.UNKNOWN_MODEL:
        nothing_said = words == _WEB_PAGE or not any(map(str.isalpha, words))
        return nothing_said or _OF_THE_MODEL.match(words) is not None
    return (named or _OF_THE_KEY.match(words) is not None) and _OF_THE_CALLER.search(words) is None


def _failure(
    error: WireError,
    status: int,
    headers: Mapping[bytes, bytes],
    now_s: float,
    secrets: Collection[str],
    bytes_received: int,
) -> Failure:
    kind = classify(status, error)
    message = _SAYING[kind]
    name = next((name for name in (error.code, error.type) if name and _NAME.fullmatch(name)), None)
    if name is not None:
        message += f" ({scrub(name, secrets)})"
    return Failure(
        kind,
        message,
        status=status,
        body=_openai_body(error, secrets) if kind in IN_THE_PROVIDERS_WORDS else None,
        retry_after_s=retry_after_s(headers, now_s=now_s, rate_limited=status == 429),
        bytes_received=bytes_received,
    )


# ---- bodies ---------------------------------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,47}")
"""A code or a type as providers name them; anything else in its place may be a sentence, or hold one."""
_NO_ERROR = {"message": "", "type": None, "param": None, "code": None}
_TOO_LONG = "The provider's reason is too long to repeat."


def _read_body(body: bytes) -> WireError:
    """The error in a body of whatever shape: JSON in one of the known forms, or else text."""
    try:
        error = read_error(msgspec.json.decode(body))
    except (ValueError, RecursionError):
        error = None
    if error is not None:
        return error
    text = body.decode("utf-8", "replace").strip()
    if text.startswith("<"):
        text = _WEB_PAGE
    return WireError(text, None, None, None, {})


def _openai_body(error: WireError, secrets: Collection[str]) -> bytes:
    """``error`` in OpenAI's shape without secrets: with all that the provider told, unless that is too much."""
    reason = error.message or "The provider gave no reason."
    if error.fields:
        fields = {**error.fields, "message": reason, "type": error.fields.get("type") or "invalid_request_error"}
        try:
            if len(msgspec.json.encode(fields)) <= MAX_BODY_BYTES:
                return msgspec.json.encode({"error": {**_NO_ERROR, **_scrubbed(fields, secrets)}})
        except (ValueError, RecursionError):
            pass  # it cannot be written as JSON again
    reason = _bounded(scrub(reason, secrets)) if len(reason) <= MAX_BODY_BYTES else _TOO_LONG
    return msgspec.json.encode({"error": {**_NO_ERROR, "message": reason, "type": "invalid_request_error"}})


# ---- secrets --------------------------------------------------------------------------------------------------------

REDACTED = "[redacted]"
_SHORTEST_SECRET = 6
"""Below it a "key" is a placeholder (servers without keys take any), and would blacken words at random."""
_KEY_LIKE = re.compile(
    r"(?i:\b(?:bearer|basic)\s+)(?=\S*\d)[\w.~+/=*-]{7,}[\w~+/=*-]"
    r"|\b(?:sk|pk|rk|gsk|csk|xai|hf|nvapi|pplx|r8|fw)[-_][\w*.-]{5,}[\w*-]"
    r"|\bAIza[\w*-]{10,}|\bAKIA[A-Z0-9]{12,}"
    r"|\beyJ[\w-]{8,}(?:\.[\w-]+)*"
)


def scrub(text: str, secrets: Collection[str]) -> str:
    """``text`` without ``secrets``, and without what looks like a key: providers quote the key that they refuse.

    Also where a secret stands escaped, as in JSON that is quoted (PHP writes ``/`` as ``\\/``). ``text`` must be whole:
    half a secret is not known as one.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            escaped = msgspec.json.encode(secret)[1:-1].decode()
            for form in (escaped.replace("/", "\\/"), escaped, secret):
                text = text.replace(form, REDACTED)
    return _KEY_LIKE.sub(REDACTED, text)


def _scrubbed(value: Any, secrets: Collection[str]) -> Any:  # Any: JSON
    """``value`` with every text in it scrubbed, the names of fields too."""
    if isinstance(value, str):
        return scrub(value, secrets)
    if isinstance(value, list):
        return [_scrubbed(item, secrets) for item in value]
    if isinstance(value, dict):
        return {scrub(name, secrets): _scrubbed(item, secrets) for name, item in value.items()}
    return value


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 1] + "…"
