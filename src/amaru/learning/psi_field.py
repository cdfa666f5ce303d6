"""A stability field beside the training: it is told the agents' rewards, and may ask for intervention.

Either a service, over HTTP: ``POST URL/init {"dimension": agents}`` once, then after every episode ``POST URL/step
{"x": rewards, "apply_guardian": true}``. It answers ``Psi, C, U, Phi, H, PE`` and, in ``_guardian.intervention``,
``nigredo`` (reset the worst agent), ``albedo`` (raise exploration) or nothing. Training never depends on it: whatever
the service does, or fails to do, an episode without an answer is an episode without these figures.

Or a field in this process, which needs no service, never is away, and is saved with the checkpoint: the result of a
training with it is the same every time, in one go or resumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from amaru.errors import AmaruError
from amaru.stability.client import Attempts, Call, FieldError, PsiClient, figure
from amaru.stability.guardian import Guardian, GuardianSettings, Intervention

LOCAL = "local"
"""In place of a URL: a field in this process."""
FIGURES = ("Psi", "C", "U", "Phi", "H", "PE")


class Reading(NamedTuple):
    """What the field answered to one episode."""

    figures: dict[str, float]
    """The ``FIGURES``; one that the service left out, or that is not a finite number, is NaN."""
    intervention: Intervention | None
    id: str | None = None
    """Of the intervention, for telling what it changed."""


class TrainingField(Protocol):
    """What a training needs of a field."""

    @property
    def missed(self) -> int:
        """Episodes without an answer."""

    def read(self, rewards: Sequence[float]) -> Reading | None:
        """Tell the rewards of an episode, in the agents' order; ``None``: no answer."""

    def applied(self, id: str, changed: Mapping[str, str]) -> None:
        """Tell what an intervention changed."""

    def state(self) -> bytes | None:
        """What belongs into the checkpoint; ``None``: nothing, it keeps itself."""

    def load(self, state: bytes) -> None:
        """Go on from what `state` gave. Raises ValueError."""


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
    call
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
        call: Call | None = None,
    ) -> None:
        try:
            self._client = PsiClient(url, call=call)
        except ValueError as error:
            raise AmaruError(f"--psi-field: {error}, nor {LOCAL!r}") from None
        self.url = self._client.url
        self.dimension = dimension
        self._attempts = Attempts(self.url, say=say, clock=clock)
        self._ready = False

    @property
    def missed(self) -> int:
        """Episodes without an answer."""
        return self._attempts.missed

    def read(self, rewards: Sequence[float]) -> Reading | None:
        """Tell the rewards of an episode, in the agents' order; ``None``: the service is away, or paused."""
        reading = self._attempts.make(lambda: self._asked(rewards))
        if reading is None:
            self._ready = False  # it may have been restarted: it must be told the dimension again
        return reading

    def _asked(self, rewards: Sequence[float]) -> Reading:
        if not self._ready:
            self._client.init(self.dimension)
            self._ready = True
        return self._reading(self._client.step(rewards))

    def applied(self, id: str, changed: Mapping[str, str]) -> None:
        """Tell what an intervention changed, where the service wants to know: not every one does."""
        try:
            self._client.applied(id, changed)
        except FieldError as error:
            self._attempts.once(
                "untold", f"the psi-field at {self.url} did not take note of what was changed ({error})"
            )

    def state(self) -> None:
        """Nothing: the service keeps itself."""

    def load(self, state: bytes) -> None:
        """Nothing is taken over: the service has its own."""

    def _reading(self, answer: dict[str, Any]) -> Reading:  # Any: JSON
        figures = {name: figure(answer.get(name)) for name in FIGURES}
        if all(math.isnan(figure) for figure in figures.values()):
            raise FieldError(f"its answer has none of the numbers {', '.join(FIGURES)}")
        guardian = answer.get("_guardian")
        id = guardian.get("id") if isinstance(guardian, dict) else None
        return Reading(figures, self._intervention(answer), id if isinstance(id, str) else None)

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
            self._attempts.once(
                "word", f"the psi-field asks for {str(asked)[:40]!r}, which is unknown ({known} are); ignored"
            )
            return None


class _State(msgspec.Struct, frozen=True, kw_only=True):
    dimension: int
    field: bytes
    guardian: bytes


class LocalField:
    """A field and its guardian in this process.

    Parameters
    ----------
    dimension
        Agents.
    guardian
        When to intervene; left out: the defaults.
    """

    def __init__(self, dimension: int, guardian: GuardianSettings | None = None) -> None:
        from amaru.stability.field import StabilityField  # compiled kernels, where they are wanted
        from amaru.stability.field_settings import FieldSettings

        self.dimension = dimension
        self.missed = 0
        self.field = StabilityField(FieldSettings(dimension=dimension, kind="rewards"))
        self.guardian = Guardian(guardian)

    def read(self, rewards: Sequence[float]) -> Reading:
        """Tell the rewards of an episode, in the agents' order."""
        reading = self.field.step(rewards)
        # Time is counted in episodes: that, and nothing of this machine's clock, decides the result.
        record = self.guardian.decide(reading, float(reading.step))
        figures = {name: float(getattr(reading, name)) for name in FIGURES}
        return Reading(figures, record.kind if record else None, record.id if record else None)

    def applied(self, id: str, changed: Mapping[str, str]) -> None:
        """Tell what an intervention changed."""
        self.guardian.applied(id, changed)

    def state(self) -> bytes:
        """Everything, for `load`."""
        return msgspec.msgpack.encode(
            _State(dimension=self.dimension, field=self.field.state(), guardian=self.guardian.state())
        )

    def load(self, state: bytes) -> None:
        """Go on from what `state` gave. Raises ValueError."""
        try:
            saved = msgspec.msgpack.decode(state, type=_State)
        except msgspec.DecodeError as error:
            raise ValueError(f"not a field's state: {error}") from None
        if saved.dimension != self.dimension:
            raise ValueError(f"a field's state of {saved.dimension} signals, where there are {self.dimension}")
        self.field.load(saved.field)
        self.guardian.load(saved.guardian)
