"""Before a replay: is the target there, does it take the key, which model is meant, and how does it like to be asked?

Two small calls answer that once and early, in place of thousands of failures: ``GET /models``, and one short chat, in
the form in which the trace will be played. Where that form is refused, plainer ones are tried: servers differ in the
fields that they put up with.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit, urlunsplit

import msgspec

from amaru.domain import FailureKind
from amaru.errors import AmaruError, Failure
from amaru.providers.transport import endpoint_from_url, open_transport
from amaru.readiness.caller import Caller, Habits
from amaru.readiness.measuring import Sample

MAX_BODY_BYTES = 8 * 1024 * 1024
TRIAL_TOKENS = 16
"""Most tokens of the trial's answer; OpenAI's reasoning models refuse to be given only one."""
TOLD_MODELS = 12
"""So many models are named in an error."""
_REFUSED = (400, 422)
_CHAT = "/chat/completions"
_REMEDIES = (
    ("set providers.target.ca_file to the PEM file of its authority", "name its authority's PEM file in SSL_CERT_FILE"),
    ("set the key by `key_env` or `key_file`", "name the key's variable with --key-env"),
)


class TargetError(AmaruError):
    """The target of a replay cannot be used; the message says why and what to do."""


class Target(msgspec.Struct, frozen=True):
    """A target that can be played against."""

    base_url: str
    model: str
    habits: Habits
    """How it is to be asked."""
    trials: int
    """Requests that were made to find that out."""
    notes: tuple[str, ...]
    """What whoever reads the figures should know of it."""


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


def base_url_of(target: str) -> str:
    """The base URL of an API: ``target``, with ``/v1`` where it names no path.

    Raises
    ------
    TargetError
        It is no URL, or one that cannot be called.
    """
    try:
        endpoint_from_url(target)
    except ValueError as error:
        words = _for_replay(str(error))
        raise TargetError(f"--target: {words}; it looks like http://127.0.0.1:8080/v1") from None
    parts = urlsplit(target)
    path = parts.path.rstrip("/").removesuffix(_CHAT) or "/v1"
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


async def look_at(target: str, *, model: str | None, key: str | None, habits: Habits, exact: bool | None) -> Target:
    """Find out how ``target`` can be played against.

    Parameters
    ----------
    model
        ``None``: the only one that it lists.
    exact
        Whether answers must have the trace's lengths; ``None``: where the target can do so.

    Raises
    ------
    TargetError
        It cannot be reached, refuses the key, does not have the model, or refuses every form of request.
    """
    base_url = base_url_of(target)
    listed, notes = await _models(base_url, key, habits.patience_s, needed=model is None)
    if model is None:
        model = _only(listed, base_url)
    for trials, form in enumerate(_forms(habits, exact), 1):  # noqa: B007 -- read behind the loop
        sample = await _asked(base_url, model, key, form)
        if sample.status not in _REFUSED:
            break
    _check(sample, base_url, model, listed, key)
    if sample.ok and exact is None and not form.exact_lengths:
        notes.append("it refuses ignore_eos: answers end where the model ends them, not at the trace's lengths")
    if sample.ok and form.stream and not form.stream_usage:
        notes.append("it refuses stream_options: tokens are counted here, one a content event")
    if not sample.ok:
        notes.append(f"the trial request failed ({sample.error}: {sample.detail[:200]}); it is played all the same")
    return Target(base_url, model, form, trials, tuple(notes))


def _forms(habits: Habits, exact: bool | None) -> Iterator[Habits]:
    """Ways to ask, the fullest first."""
    plain = msgspec.structs.replace(habits, exact_lengths=bool(exact))
    if exact is None:
        yield msgspec.structs.replace(plain, exact_lengths=True)
    yield plain
    yield msgspec.structs.replace(plain, limit_field="max_completion_tokens")  # OpenAI's reasoning models
    if habits.stream:
        yield msgspec.structs.replace(plain, stream_usage=False)


async def _asked(base_url: str, model: str, key: str | None, habits: Habits) -> Sample:
    """One short chat."""
    caller = Caller(base_url, model, key=key, habits=msgspec.structs.replace(habits, max_retries=0))
    sample = Sample(at_s=0.0)
    try:
        await caller.call(caller.body("Hello.", TRIAL_TOKENS), sample, time.monotonic())
    finally:
        await caller.aclose()
    return sample


def _check(sample: Sample, base_url: str, model: str, listed: Sequence[str], key: str | None) -> None:
    """Raise where requests like the trial cannot succeed; other failures may pass, and are what a replay measures."""
    told = f"{sample.status}: {_short(sample.detail)}"
    if sample.status in (401, 403):
        raise _refused_key(base_url, told, key)
    if sample.status == 404:
        which = f"it lists {_names(listed)}; name one with --model" if listed else "name it with --model"
        raise TargetError(f"{base_url} does not serve chats with the model {model!r} ({told}); {which}")
    if sample.status in _REFUSED:
        raise TargetError(f"{base_url} refuses a short request to the model {model!r} ({told})")


async def _models(base_url: str, key: str | None, patience_s: float, *, needed: bool) -> tuple[list[str], list[str]]:
    """The models that the target lists, and notes. Without ``needed``, a target that lists none will do."""
    status, body = await _get(base_url, key, patience_s)
    words = body.decode("utf-8", "replace")
    told = f"{status}: {_short(words.replace(key, '[key]') if key else words)}"
    if status in (401, 403):
        raise _refused_key(base_url, told, key)
    if status == 200:
        try:
            return [model.id for model in msgspec.json.decode(body, type=_Models).data], []
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
    said = "something that is no list of models" if status == 200 else told
    if needed:
        raise TargetError(f"{base_url}/models answers with {said}: name the model with --model, and check --target")
    return [], [f"GET {base_url}/models answers with {said}"]


def _only(listed: Sequence[str], base_url: str) -> str:
    if len(listed) == 1:
        return listed[0]
    if not listed:
        raise TargetError(f"{base_url} lists no model: name one with --model")
    raise TargetError(f"{base_url} lists {len(listed)} models; name one with --model: {_names(listed)}")


async def _get(base_url: str, key: str | None, patience_s: float) -> tuple[int, bytes]:
    transport = open_transport(msgspec.structs.replace(endpoint_from_url(base_url), provider="target"))
    deadline = asyncio.get_running_loop().time() + patience_s
    headers = [(b"authorization", b"Bearer " + key.encode())] if key else []
    try:
        response = await transport.send(
            "GET", b"/models", headers, b"", head_deadline=deadline, head_kind=FailureKind.NO_ANSWER
        )
        response.set_deadline(deadline, FailureKind.NO_ANSWER, "the list of models did not come")
        return response.status, await response.read(MAX_BODY_BYTES)
    except Failure as failure:
        words = _for_replay(failure.message)
        raise TargetError(f"{base_url} cannot be reached: {words}; is it running, and is --target right?") from None
    except ValueError as error:
        raise TargetError(f"the key cannot be sent: {error}") from None
    finally:
        await transport.aclose()


def _refused_key(base_url: str, told: str, key: str | None) -> TargetError:
    if key is None:
        return TargetError(f"{base_url} wants a key ({told}): put it into a variable, and name that with --key-env")
    return TargetError(f"{base_url} refuses the key ({told}): check what the variable of --key-env holds")


def _for_replay(words: str) -> str:
    """A message that was written for amaru's configuration, with the remedy that a replay has."""
    for theirs, ours in _REMEDIES:
        words = words.replace(theirs, ours)
    return words


def _names(listed: Sequence[str]) -> str:
    more = f" and {len(listed) - TOLD_MODELS} more" if len(listed) > TOLD_MODELS else ""
    return ", ".join(listed[:TOLD_MODELS]) + more


def _short(words: str) -> str:
    return " ".join(words.split())[:200] or "no words"
