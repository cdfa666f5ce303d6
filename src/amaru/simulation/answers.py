"""What a simulated provider says: deterministic in the request, the same streamed and whole."""

from __future__ import annotations

import base64
import math
import random
from collections.abc import Sequence
from itertools import accumulate

import msgspec
import numpy as np

from amaru.domain import Kind
from amaru.errors import RequestError
from amaru.simulation.asks import Ask
from amaru.simulation.json_schema import instance
from amaru.simulation.profiles import ProviderProfile
from amaru.simulation.text import VOCABULARY, count_tokens, fingerprint, tokens_of, words

MAX_ENTRIES = 500_000
"""Most tokens and log-probabilities of one answer: about a second of work, in which nobody else is served."""


class Choice(msgspec.Struct):
    """One of the ``n`` answers."""

    index: int
    tokens: list[str]
    """Joined, they are the text; or the arguments, where a function is called."""
    finish_reason: str
    call: tuple[str, str] | None = None
    """Id and name of the function called."""
    reasoning_tokens: int = 0
    """Thought before it; none of them are in ``tokens``."""

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.tokens)


def choices_for(ask: Ask, profile: ProviderProfile) -> list[Choice]:
    """The answers to ``ask``.

    Raises
    ------
    RequestError
        400: the schema of the answer or of the function cannot be read; the answer would be longer than
        ``MAX_ENTRIES``.
    """
    room = min(profile.max_output_tokens, max(1, profile.context_window_tokens - ask.prompt_tokens))
    limit = room if ask.limit is None else min(ask.limit, room)
    choices, entries = [], 0
    for index in range(ask.n):
        reasoning = _reasoning_tokens(ask, profile, index, limit if profile.limits_reasoning else room)
        left = (limit if profile.limits_reasoning else room) - reasoning
        choice = _choice(ask, profile, index, min(limit, left))
        choices.append(msgspec.structs.replace(choice, reasoning_tokens=reasoning))
        entries += len(choices[-1].tokens) * (1 if ask.logprobs is None else 2 + ask.logprobs)
        if entries > MAX_ENTRIES:
            words = f"n and max_tokens ask for more than {MAX_ENTRIES} tokens and log-probabilities; ask for fewer"
            raise RequestError(400, words, param="n")
    return choices


def _reasoning_tokens(ask: Ask, profile: ProviderProfile, index: int, limit: int) -> int:
    """Of the limit, at least one token is left for the answer. Drawn apart: the words of the answer stay the same."""
    if not profile.reasoning_tokens:
        return 0
    rng = random.Random(fingerprint(profile.answer_seed, ask.seed, index, "reasoning"))  # noqa: S311 -- as below
    drawn = round(profile.reasoning_tokens * math.exp(profile.answer_sigma * rng.gauss(0, 1)))
    return max(0, min(drawn, limit - 1))


def _choice(ask: Ask, profile: ProviderProfile, index: int, limit: int) -> Choice:
    rng = random.Random(fingerprint(profile.answer_seed, ask.seed, index))  # noqa: S311 -- reproducible, not secret
    if ask.call is not None:
        arguments = msgspec.json.encode(_made(ask.call.parameters or {"type": "object"}, rng, "tools")).decode()
        call = (f"call_{rng.getrandbits(64):016x}", ask.call.name)
        tokens, reason = _cut(tokens_of(arguments), limit, "tool_calls")
        return Choice(index, tokens, reason, call)
    if ask.json:
        made = {"answer": "".join(words(6, rng))} if ask.schema is None else _made(ask.schema, rng, "response_format")
        tokens, reason = _cut(tokens_of(msgspec.json.encode(made).decode()), limit, "stop")
        return Choice(index, tokens, reason)
    if ask.exact:
        return Choice(index, _text(ask, profile, limit, rng), "length")
    length = max(1, round(profile.answer_tokens * math.exp(profile.answer_sigma * rng.gauss(0, 1))))
    whole = _text(ask, profile, length, rng)
    tokens, reason = _cut(whole, limit, "stop")
    if ask.echo:
        tokens = tokens_of(ask.prompt) + tokens
    return _stopped(Choice(index, tokens, reason), ask.stop)


def _text(ask: Ask, profile: ProviderProfile, length: int, rng: random.Random) -> list[str]:
    """Words of an answer; behind a prefill that is the answer's own beginning, exactly what is left of it."""
    if not ask.prefill or profile.prefill != "continue":
        return words(length, rng)
    done = ask.prefill
    # The same draw for the answer as a whole makes a continuation join what another provider began.
    whole = words(length + (count_tokens(done) if ask.exact else 0), rng)
    text = "".join(whole)
    if text.startswith(done):
        return tokens_of(text[len(done) :])
    return [" " + word.strip() for word in whole[:length]]


def _cut(tokens: list[str], limit: int, reason: str) -> tuple[list[str], str]:
    return (tokens, reason) if len(tokens) <= limit else (tokens[:limit], "length")


def _stopped(choice: Choice, stop: Sequence[str]) -> Choice:
    """End the answer before the first of the stop sequences."""
    text = choice.text
    places = [place for word in stop if (place := text.find(word)) >= 0]
    if not places:
        return choice
    return Choice(choice.index, tokens_of(text[: min(places)]), "stop")


def _made(schema: dict[str, object], rng: random.Random, param: str) -> object:
    try:
        made: object = instance(schema, rng)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        # A schema is any JSON: whatever is wrong in it is the caller's mistake.
        raise RequestError(400, f"Invalid schema: {error}", param=param, code="invalid_schema") from None
    return made


def logprobs_of(kind: Kind, tokens: Sequence[str], alternatives: int) -> dict[str, object]:
    """Log-probabilities of ``tokens`` in the shape of the endpoint, made up but fixed for each token."""
    scores = [-(fingerprint(token) % 2000) / 1000 for token in tokens]
    others = [
        [VOCABULARY[(fingerprint(token) + place) % len(VOCABULARY)] for place in range(alternatives)]
        for token in tokens
    ]
    if kind is Kind.COMPLETION:
        return {
            "tokens": list(tokens),
            "token_logprobs": scores,
            "top_logprobs": [
                {other: score - place for place, other in enumerate(row)}
                for score, row in zip(scores, others, strict=True)
            ]
            if alternatives
            else None,
            "text_offset": list(accumulate(map(len, tokens), initial=0))[:-1],
        }
    return {
        "content": [
            {**_scored(token, score), "top_logprobs": [_scored(o, score - place) for place, o in enumerate(row)]}
            for token, score, row in zip(tokens, scores, others, strict=True)
        ],
        "refusal": None,
    }


def _scored(token: str, score: float) -> dict[str, object]:
    return {"token": token, "logprob": score, "bytes": list(token.encode())}


def embedding_of(text: str | list[int], dimensions: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """A unit vector that depends on the text alone; shape ``(dimensions,)``."""
    seed = fingerprint(text if isinstance(text, str) else msgspec.json.encode(text))
    vector = np.random.default_rng(seed).standard_normal(dimensions)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def base64_floats(vector: np.ndarray[tuple[int], np.dtype[np.float32]]) -> str:
    """The vector as OpenAI's ``encoding_format: base64``: little-endian float32."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
