"""The stability field and its guardian over HTTP: ``amaru psi serve``.

One field at a time, made by ``POST /init`` and fed by ``POST /step``. Every step is saved before it is answered, so
that a service that is killed goes on from the last step that somebody was told of. Where saving fails, steps are taken
all the same, and ``GET /health`` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from amaru.errors import RequestError
from amaru.http1 import HttpServer, Request, ServerSettings
from amaru.protocols.openai import error_body
from amaru.stability.field import StabilityField
from amaru.stability.field_settings import MAX_DIMENSION, FieldReading, FieldSettings
from amaru.stability.guardian import Guardian, GuardianSettings, Intervention, InterventionRecord
from amaru.stability.service_answers import Kept, StateAnswer
from amaru.stability.service_metrics import PsiMetrics
from amaru.stability.service_requests import (
    MAX_BODY_BYTES,
    Applied,
    Step,
    Swarm,
    Trigger,
    read,
    read_init,
)
from amaru.stability.service_state import SavedService, StateFile
from amaru.stability.swarm import swarm_health

LIMITS = ServerSettings(
    max_body_bytes=MAX_BODY_BYTES, max_connections=1000, max_buffered_bytes=8 * MAX_BODY_BYTES, body_timeout_s=10.0
)
Json = dict[str, Any]  # Any: a JSON document
Answer = Callable[[Request], Json]
_JSON = (b"content-type", b"application/json")


class PsiService:
    """Answers requests.

    Parameters
    ----------
    file
        Where its state goes after every change; ``None``: nowhere.
    node
        Its name among several, in ``GET /federation/metrics``.
    guardian
        When to intervene, until ``POST /init`` says otherwise.
    clock
        Unix seconds.
    """

    def __init__(
        self,
        *,
        file: StateFile | None,
        node: str,
        guardian: GuardianSettings | None = None,
        clock: Callable[[], float],
    ) -> None:
        self.node = node
        self.field: StabilityField | None = None
        self.guardian = Guardian(guardian)
        self._names: tuple[str, ...] = ()
        self._file = file
        self._clock = clock
        self._saved_at: float | None = None
        self._metrics = PsiMetrics(self)
        self._gets: dict[str, Answer] = {
            "/params": self._params,
            "/state": self._state,
            "/health": self._health,
            "/guardian/status": lambda _: self._builtins(self.guardian.status(self._clock())),
            "/guardian/statistics": lambda _: self._builtins(self.guardian.statistics()),
            "/guardian/interventions": self._interventions,
            "/federation/metrics": self._node,
        }
        self._posts: dict[str, Answer] = {
            "/init": self._init,
            "/step": self._step,
            "/guardian/nigredo": lambda request: self._trigger(request, Intervention.NIGREDO),
            "/guardian/albedo": lambda request: self._trigger(request, Intervention.ALBEDO),
            "/guardian/on": lambda request: self._switch(request, True),
            "/guardian/off": lambda request: self._switch(request, False),
            "/guardian/applied": self._applied,
            "/federation/swarm": self._swarm,
        }

    def server(self) -> HttpServer:
        """A server of this service, to be started."""
        return HttpServer(self.answer, LIMITS, wall_clock=self._clock)

    def answer(self, request: Request) -> None:
        """Answer ``request``; every refusal is an answer too."""
        try:
            if request.path == "/metrics" and request.method in ("GET", "HEAD"):
                body, kind = self._metrics.render(request.headers.get(b"accept", b"").decode("latin-1"))
                request.respond(200, [(b"content-type", kind.encode())], body)
                return
            answer = self._endpoint(request)(request)
        except RequestError as error:
            allowed = b"POST" if request.path in self._posts else b"GET, HEAD"
            allow = [(b"allow", allowed)] if error.status == 405 else []
            request.respond(error.status, [_JSON, *allow], error_body(error))
        else:
            request.respond(200, [_JSON], msgspec.json.encode(answer))

    def _endpoint(self, request: Request) -> Answer:
        path, method = request.path, request.method
        if method in ("GET", "HEAD") and path in self._gets:
            return self._gets[path]
        if method == "POST" and path in self._posts:
            # Browsers name the page that sends a POST: none has business here, and any page could reach a loopback.
            if b"origin" in request.headers:
                raise RequestError(403, "Pages of browsers may not change the field.", type="permission_error")
            return self._posts[path]
        if path in self._gets or path in self._posts or path == "/metrics":
            allowed = "POST" if path in self._posts else "GET"
            raise RequestError(405, f"{path} takes {allowed}, not {method[:32]}.", code="method_not_allowed")
        known = ", ".join(
            [*(f"GET {one}" for one in (*self._gets, "/metrics")), *(f"POST {one}" for one in self._posts)]
        )
        raise RequestError(404, f"No endpoint at {path[:256]!r}; there are {known}.", code="not_found")

    # ---- the field ----------------------------------------------------------------------------------------------

    def _init(self, request: Request) -> Json:
        asked = read_init(request.body)
        names = asked.names if asked.names is not None else self._names
        same = self.field is not None and self.field.settings == asked.field and names == self._names
        kept = same and not asked.reset
        if not kept:
            self.begin(asked.field, names if same else asked.names or ())
        if asked.guardian is not None and asked.guardian != self.guardian.settings:
            self._guard(asked.guardian)
        self._save()
        reading = self.reading
        return {
            "dimension": asked.field.dimension,
            "kept": kept,
            "step": 0 if reading is None else reading.step,
            "params": self._params(request),
        }

    def begin(self, settings: FieldSettings, names: tuple[str, ...] = ()) -> None:
        """Have a new field, and a guardian that knows no readings yet."""
        self.field = StabilityField(settings)
        self._names = names
        enabled = self.guardian.enabled
        self.guardian = Guardian(self.guardian.settings)
        self.guardian.enabled = enabled

    def _guard(self, settings: GuardianSettings) -> None:
        state = self.guardian.state()
        self.guardian = Guardian(settings)
        self.guardian.load(state)
        self.guardian.enabled = settings.enabled

    def _step(self, request: Request) -> Json:
        asked = read(request.body, Step)
        field = self.field
        if field is None:
            raise RequestError(
                409,
                f'There is no field yet: POST /init {{"dimension": {max(1, len(asked.x))}}} first.',
                code="no_field",
            )
        try:
            reading = field.step(asked.x, at=asked.at, cut=asked.cut)
        except ValueError:
            words = f"x: has {len(asked.x)} values, and the field takes {field.dimension}"
            raise RequestError(400, f'{words}; send fewer, "cut": true, or POST /init anew', param="x") from None
        record = None
        if asked.apply_guardian:
            record = self.guardian.decide(reading, self._clock())
        else:
            self.guardian.observe(reading)
        self._save()
        return {**self._builtins(reading), "_guardian": _word(record)}

    def _params(self, _: Request) -> Json:
        return {
            "field": None if self.field is None else self._builtins(self.field.settings),
            "names": list(self._names),
            "guardian": self._builtins(self.guardian.settings),
            "max_dimension": MAX_DIMENSION,
        }

    def _state(self, _: Request) -> Json:
        reading = self.reading
        surprises = () if reading is None else reading.surprises
        answer = StateAnswer(
            initialised=self.field is not None,
            reading=reading,
            surprises=dict(zip(self._names, surprises, strict=False)),
            guardian=self.guardian.status(self._clock()),
            state=self._kept,
        )
        return self._builtins(answer)

    def _health(self, _: Request) -> Json:
        reading = self.reading
        return {
            "status": "ok" if self.state_problem is None else "degraded",
            "initialised": self.field is not None,
            "step": 0 if reading is None else reading.step,
            "Psi": None if reading is None else reading.Psi,
            "guardian": "on" if self.guardian.enabled else "off",
            "state": self._builtins(self._kept),
        }

    # ---- the guardian -------------------------------------------------------------------------------------------

    def _trigger(self, request: Request, kind: Intervention) -> Json:
        asked = read(request.body, Trigger)
        record = self.guardian.trigger(kind, self._clock(), asked.by)
        self._save()
        return {"pending": self._builtins(record), "handed_out": "with the next step that applies the guardian"}

    def _switch(self, request: Request, on: bool) -> Json:
        read(request.body, Trigger)
        self.guardian.enabled = on
        self._save()
        return self._builtins(self.guardian.status(self._clock()))

    def _applied(self, request: Request) -> Json:
        asked = read(request.body, Applied)
        record = self.guardian.applied(asked.id, asked.changed)
        if record is None:
            raise RequestError(
                404, f"id: no intervention {asked.id!r} was handed out lately; GET /guardian/interventions lists them",
                code="not_found", param="id",
            )  # fmt: skip
        self._save()
        return self._builtins(record)

    def _interventions(self, _: Request) -> Json:
        return {"interventions": [self._builtins(record) for record in reversed(self.guardian.records)]}

    # ---- several nodes ------------------------------------------------------------------------------------------

    def _node(self, _: Request) -> Json:
        reading = self.reading
        figures = ("C", "U", "Phi", "Psi", "H", "PE", "step", "at")
        return {"node": self.node, **{name: None if reading is None else getattr(reading, name) for name in figures}}

    def _swarm(self, request: Request) -> Json:
        return self._builtins(swarm_health(read(request.body, Swarm).nodes))

    # ---- keeping ------------------------------------------------------------------------------------------------

    @property
    def reading(self) -> FieldReading | None:
        """The last one."""
        return None if self.field is None else self.field.reading

    @property
    def state_problem(self) -> str | None:
        """Why the state could not be saved; ``None``: it was, or nobody wants it saved."""
        return None if self._file is None else self._file.problem

    def restore(self, saved: SavedService) -> None:
        """Go on from what was saved. Raises ValueError, and nothing has changed."""
        field = None
        if saved.field_settings is not None:
            field = StabilityField(saved.field_settings)
            if saved.field:
                field.load(saved.field)
        guardian = Guardian(saved.guardian_settings)
        guardian.load(saved.guardian)
        self.field, self.guardian, self._names = field, guardian, saved.names
        self._saved_at = saved.saved_at

    def _save(self) -> None:
        if self._file is None:
            return
        now = self._clock()
        field = self.field
        saved = SavedService(
            saved_at=now,
            names=self._names,
            field_settings=None if field is None else field.settings,
            field=b"" if field is None else field.state(),
            guardian_settings=self.guardian.settings,
            guardian=self.guardian.state(),
        )
        if self._file.write(saved):
            self._saved_at = now

    @property
    def _kept(self) -> Kept:
        path = None if self._file is None else str(self._file.path)
        return Kept(file=path, saved_at=self._saved_at, problem=self.state_problem)

    @staticmethod
    def _builtins(value: msgspec.Struct) -> Json:
        found: Json = msgspec.to_builtins(value)
        return found


def warm() -> None:
    """Have the field compiled now, and not while the first caller waits."""
    StabilityField(FieldSettings(dimension=1)).step([0.0])


def _word(record: InterventionRecord | None) -> Json:
    if record is None:
        return {"intervention": None}
    return {"intervention": record.kind.value, "id": record.id, "by": record.by, "reason": record.reason}
