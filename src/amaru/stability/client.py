"""Calls to a psi-field service (``amaru psi serve``), or to whatever answers as it does.

A call ends within ``LIMIT_S``, whatever the service does; what it answers is bounded, and a redirect is not followed.
Proxies of the environment are not used, as nothing else in amaru does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from amaru.errors import AmaruError
from amaru.protocols.wire_errors import read_error

if TYPE_CHECKING:
    from pyreqwest.bytes import Bytes
    from pyreqwest.exceptions import PyreqwestError

LIMIT_S = 2.0
"""A call that takes longer has failed."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0
"""A service that failed is left alone for so long, doubling."""
MAX_ANSWER_BYTES = 8 * 1024 * 1024
DEFAULT_URL = "http://127.0.0.1:8000"
_MAX_WORDS = 300

T = TypeVar("T")
Json = dict[str, Any]  # Any: a JSON document
Call = Callable[[str, bytes | None], bytes]
"""A URL and a JSON body to post, or ``None`` to get → the body of a successful answer. Raises ``FieldError``."""


class FieldError(AmaruError):
    """The service did not answer as a field does; the message says how.

    ``status`` is the HTTP status that it refused with; ``None`` where there was no such answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Attempts:
    """Calls to a service that may be away, for programs that go on without it.

    After a failure the service is left alone for a while: thousands of steps must not wait for it one by one.

    Parameters
    ----------
    url
        Its base, for what is said of it.
    say
        Takes a line for the user: the first time that it is away, and the first time that it is back.
    clock
        Seconds; only pauses are measured by it.
    """

    def __init__(self, url: str, *, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self.missed = 0
        """Calls without an answer."""
        self._url = url
        self._say = say
        self._clock = clock
        self._pause_s = FIRST_PAUSE_S
        self._not_before = -math.inf
        self._told: set[str] = set()

    def make(self, call: Callable[[], T]) -> T | None:
        """What ``call`` returns; ``None``: it raised ``FieldError``, or it is too early to try again."""
        if self._clock() < self._not_before:
            self.missed += 1
            return None
        try:
            answer = call()
        except FieldError as error:
            self.missed += 1
            self._not_before = self._clock() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            self.once("away", f"the psi-field at {self._url} is away ({error}); training goes on without it")
            return None
        self._pause_s = FIRST_PAUSE_S
        if "away" in self._told:
            self.once("back", f"the psi-field at {self._url} is back, and used again")
        return answer

    def once(self, about: str, words: str) -> None:
        """Say something, unless it was said before."""
        if about not in self._told:
            self._told.add(about)
            self._say(words)


class PsiClient:
    """One service.

    Parameters
    ----------
    url
        Its base, such as ``http://127.0.0.1:8000``.
    call
        How calls are made; for tests.

    Raises
    ------
    ValueError
        The URL is none.
    """

    def __init__(self, url: str = DEFAULT_URL, *, call: Call | None = None) -> None:
        self.url = base_of(url)
        self._call = call or http_call()

    def init(self, dimension: int, **settings: object) -> Json:
        """``POST /init``: have a field of so many signals; one that has the same settings already is kept."""
        return self.post("init", {"dimension": dimension, **settings})

    def step(self, x: Sequence[float | None], *, at: float | None = None, apply_guardian: bool = True) -> Json:
        """``POST /step``: the figures, and the guardian's word in ``_guardian``."""
        values = [None if value is None else float(value) for value in x]  # NumPy's too
        body: Json = {"x": values, "apply_guardian": apply_guardian}
        return self.post("step", body if at is None else {**body, "at": at})

    def applied(self, id: str, changed: Mapping[str, str]) -> Json:
        """``POST /guardian/applied``: tell what an intervention changed."""
        return self.post("guardian/applied", {"id": id, "changed": dict(changed)})

    def get(self, path: str) -> Json:
        """Any endpoint that is read. Raises ``FieldError``."""
        return _decoded(self._call(f"{self.url}/{path}", None))

    def post(self, path: str, body: Mapping[str, object]) -> Json:
        """Any endpoint that takes a body. Raises ``FieldError``."""
        return _decoded(self._call(f"{self.url}/{path}", msgspec.json.encode(body)))


def base_of(url: str) -> str:
    """``url`` as the base of further paths.

    Raises
    ------
    ValueError
        It cannot be one; the message says what one looks like.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
        usable = usable and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{url[:100]!r} is not the URL of a service, such as {DEFAULT_URL}")
    return url.rstrip("/")


def figure(value: object) -> float:
    """A finite number of an answer, whatever else stands there: NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        number = float(value)
    except OverflowError:  # an integer that is no float
        return math.nan
    return number if math.isfinite(number) else math.nan


def http_call(limit_s: float = LIMIT_S, *, key: str | None = None) -> Call:
    """Calls over HTTP, each within ``limit_s`` from its beginning to the answer's last byte; ``key`` is a bearer's."""
    from pyreqwest.client import SyncClientBuilder
    from pyreqwest.exceptions import PyreqwestError

    builder = SyncClientBuilder().timeout(timedelta(seconds=limit_s)).follow_redirects(False).no_proxy()
    if key is not None:
        builder = builder.default_headers({"authorization": f"Bearer {key}"})
    client = builder.build()

    def call(url: str, body: bytes | None) -> bytes:
        if body is None:
            request = client.get(url)
        else:
            request = client.post(url).header("content-type", "application/json").body_bytes(body)
        try:
            with request.build_streamed() as response:
                answer = _read(response.body_reader.read_chunk)
                if not 200 <= response.status < 300:
                    raise FieldError(f"it answered with status {response.status}{_words(answer)}", response.status)
                return answer
        except PyreqwestError as error:
            late = isinstance(error, TimeoutError)
            raise FieldError(f"no answer within {limit_s:g} s" if late else _trouble(error)) from None

    return call


def _trouble(error: PyreqwestError) -> str:
    """Why no answer came, in the words of whatever lies deepest: the operating system, TLS, or the protocol."""
    causes = (getattr(error, "details", None) or {}).get("causes") or [{"message": str(error)}]
    return "no answer: " + _one_line(str(causes[-1].get("message"))).partition(" (os error")[0]


def _read(chunk: Callable[[], Bytes | None]) -> bytes:
    parts: list[bytes] = []
    held = 0
    while (part := chunk()) is not None:
        data = bytes(part)
        held += len(data)
        if held > MAX_ANSWER_BYTES:
            raise FieldError(f"its answer is longer than {MAX_ANSWER_BYTES:,} bytes")
        parts.append(data)
    return b"".join(parts)


def _words(answer: bytes) -> str:
    """What a refusal says of itself, in one line that cannot play with a terminal."""
    try:
        error = read_error(msgspec.json.decode(answer))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    if error is None or not error.message:
        return ""
    return f": {_one_line(error.message)}"


def _one_line(words: str) -> str:
    return "".join(char if char.isprintable() else " " for char in words[:_MAX_WORDS])


def _decoded(answer: bytes) -> Json:
    try:
        decoded = msgspec.json.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FieldError(f"its answer is no JSON: {error}") from None
    if not isinstance(decoded, dict):
        raise FieldError("its answer is no JSON object")
    return decoded
