"""A stability field beside the training: a service that is told the agents' rewards, and may ask for intervention.

``POST URL/init {"dimension": agents}`` once, then after every episode ``POST URL/step {"x": rewards, "apply_guardian":
true}``. It answers ``Psi, C, U, Phi, H, PE`` and, in ``_guardian.intervention``, ``nigredo`` (reset the worst agent),
``albedo`` (raise exploration) or nothing.

Training never depends on it: whatever the service does, or fails to do, an episode without an answer is an episode
without these figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from amaru.errors import AmaruError
from amaru.stability.guardian import Intervention

if TYPE_CHECKING:
    from pyreqwest.bytes import Bytes

LIMIT_S = 2.0
"""A call that takes longer has failed."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0
"""A service that failed is left alone for so long, doubling: thousands of episodes must not wait for it one by one."""
MAX_ANSWER_BYTES = 1024 * 1024
FIGURES = ("Psi", "C", "U", "Phi", "H", "PE")


class Reading(NamedTuple):
    """What the field answered to one episode."""

    figures: dict[str, float]
    """The ``FIGURES``; one that the service left out, or that is not a finite number, is NaN."""
    intervention: Intervention | None


class FieldError(AmaruError):
    """The service did not answer as a field does; the message says how."""


Post = Callable[[str, bytes], bytes]
"""A URL and a JSON body → the body of a successful answer. Raises ``FieldError``."""


class PsiField:
    """One service, used while it answers.

    Parameters
    ----------
    url
        Its base, such as ``http://127.0.0.1:8000``.
    dimension
        Agents, the length of what is sent.
    say
        Takes a line for the user: the first time that the service is away, and the first time that it is back.
    clock
        Seconds; only pauses are measured by it.
    post
        How calls are made; for tests.

    Raises
    ------
    AmaruError
        The URL is none.
    """

    def __init__(
        self,
        url: str,
        dimension: int,
        *,
        say: Callable[[str], None],
        clock: Callable[[], float],
        post: Post | None = None,
    ) -> None:
        self.url = _checked(url)
        self.dimension = dimension
        self.missed = 0
        """Episodes without an answer."""
        self._say = say
        self._clock = clock
        self._post = post or http_post()
        self._ready = False
        self._pause_s = FIRST_PAUSE_S
        self._not_before = -math.inf
        self._told: set[str] = set()

    def read(self, rewards: Sequence[float]) -> Reading | None:
        """Tell the rewards of an episode, in the agents' order; ``None``: the service is away, or paused."""
        if self._clock() < self._not_before:
            self.missed += 1
            return None
        try:
            if not self._ready:
                self._call("init", {"dimension": self.dimension})
                self._ready = True
            reading = self._reading(self._call("step", {"x": list(rewards), "apply_guardian": True}))
        except FieldError as error:
            self.missed += 1
            self._ready = False  # it may have been restarted: it must be told the dimension again
            self._not_before = self._clock() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._once("away", f"the psi-field at {self.url} is away ({error}); training goes on without it")
            return None
        self._pause_s = FIRST_PAUSE_S
        if "away" in self._told:
            self._once("back", f"the psi-field at {self.url} is back, and used again")
        return reading

    def _call(self, path: str, body: Mapping[str, object]) -> bytes:
        return self._post(f"{self.url}/{path}", msgspec.json.encode(body))

    def _reading(self, answer: bytes) -> Reading:
        try:
            decoded = msgspec.json.decode(answer)
        except msgspec.DecodeError as error:
            raise FieldError(f"its answer is no JSON: {error}") from None
        if not isinstance(decoded, dict):
            raise FieldError("its answer is no JSON object")
        figures = {name: _finite(decoded.get(name)) for name in FIGURES}
        if all(math.isnan(figure) for figure in figures.values()):
            raise FieldError(f"its answer has none of the numbers {', '.join(FIGURES)}")
        return Reading(figures, self._intervention(decoded))

    def _intervention(self, answer: dict[str, Any]) -> Intervention | None:  # Any: JSON
        guardian = answer.get("_guardian")
        asked = guardian.get("intervention") if isinstance(guardian, dict) else answer.get("_guardian.intervention")
        if isinstance(asked, dict):  # with figures of its own beside the word
            asked = next((asked[key] for key in ("intervention", "kind", "type", "name") if key in asked), None)
        if asked is None or asked in ("", "none"):
            return None
        try:
            return Intervention(asked)
        except ValueError:
            known = " and ".join(Intervention)
            self._once("word", f"the psi-field asks for {str(asked)[:40]!r}, which is unknown ({known} are); ignored")
            return None

    def _once(self, about: str, words: str) -> None:
        if about not in self._told:
            self._told.add(about)
            self._say(words)


def http_post(limit_s: float = LIMIT_S) -> Post:
    """Calls over HTTP, each within ``limit_s`` from its beginning to the answer's last byte."""
    from pyreqwest.client import SyncClientBuilder
    from pyreqwest.exceptions import PyreqwestError

    client = SyncClientBuilder().timeout(timedelta(seconds=limit_s)).follow_redirects(False).build()

    def post(url: str, body: bytes) -> bytes:
        request = client.post(url).header("content-type", "application/json").body_bytes(body)
        try:
            with request.build_streamed() as response:
                if not 200 <= response.status < 300:
                    raise FieldError(f"it answered with status {response.status}")
                return _read(response.body_reader.read_chunk)
        except PyreqwestError as error:
            raise FieldError(f"no answer within {limit_s:g} s: {type(error).__name__}") from None

    return post


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


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        figure = float(value)
    except OverflowError:
        return math.nan
    return figure if math.isfinite(figure) else math.nan


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
        usable = usable and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise AmaruError(f"--psi-field: {url[:100]!r} is not the URL of a service, such as http://127.0.0.1:8000")
    return url.rstrip("/")
