"""The guardian: looks at each reading of the stability field, and asks for one of two interventions.

``nigredo`` (reset what is worst) where the present surprises: the prediction error is above its threshold. ``albedo``
(raise exploration) where things are disordered and unstable: the entropy is above its threshold, and Ψ below its own.

Each threshold is a percentile of the recent readings, and never more eager than the static one: one gets used to a mesh
that always is restless, though not without bound, and in one that is calm for days trifles stay trifles. Between two
interventions lies a cool-down, and one kind comes again only after the readings have gone back through a second, lower
threshold (hysteresis): one trouble is one intervention.

The guardian asks, and whoever asked it acts: training resets an agent, the gateway drains a provider. They tell it
what that changed, and it keeps the record, with Ψ before and after.

Everything is counted in readings, so that the same readings give the same interventions.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

import msgspec

from amaru.stability.guardian_history import History
from amaru.stability.guardian_records import (
    GuardianSettings,
    GuardianStatistics,
    GuardianStatus,
    Intervention,
    InterventionRecord,
    Measured,
    Thresholds,
)

__all__ = [
    "Guardian",
    "GuardianSettings",
    "GuardianStatistics",
    "GuardianStatus",
    "Intervention",
    "InterventionRecord",
    "Measured",
    "Thresholds",
]

VERSION = 1
"""Of the state; another one is refused."""
KEPT = 200
"""Records kept; older ones live on in the totals only."""
MAX_CHANGES, MAX_TEXT = 32, 300
"""Of what is told of an intervention."""


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    enabled: bool
    steps: int
    pe: list[float]
    h: list[float]
    psi: list[float]
    armed: dict[Intervention, bool]
    last_step: int | None
    last_at: float | None
    pending: list[InterventionRecord]
    records: list[InterventionRecord]
    counts: dict[Intervention, int]
    made: int
    triggered: int
    withheld: dict[str, int]


class Guardian:
    """Judges readings, one after another.

    Parameters
    ----------
    settings
        Left out: the defaults.
    """

    def __init__(self, settings: GuardianSettings | None = None) -> None:
        self.settings = settings or GuardianSettings()
        self.enabled = self.settings.enabled
        """The off-switch: whether it asks by itself."""
        self.steps = 0
        self.records: deque[InterventionRecord] = deque(maxlen=KEPT)
        """The latest, oldest first."""
        self.counts = dict.fromkeys(Intervention, 0)
        """Interventions so far, by kind."""
        self._pe, self._h, self._psi = (History(self.settings.history) for _ in range(3))
        self._armed = dict.fromkeys(Intervention, True)
        self._last_step: int | None = None
        self._last_at: float | None = None
        self._pending: list[InterventionRecord] = []
        self._made = self._triggered = 0
        self._withheld = dict.fromkeys(("off", "warm_up", "cooldown", "hysteresis"), 0)

    # ---- judging ------------------------------------------------------------------------------------------------

    def decide(self, reading: Measured, now: float) -> InterventionRecord | None:
        """What is to be done after ``reading``, taken at ``now`` (Unix seconds); usually nothing: ``None``.

        Of the record, ``kind`` is what to do, and ``id`` what `applied` wants once it is done.
        """
        asked = self._look(reading, now)
        if self._pending:  # a person's word goes first, and starts the cool-down for the guardian's own
            record = msgspec.structs.replace(self._pending.pop(0), step=self.steps, psi=_finite(reading.Psi))
        elif asked is not None:
            kind, reason = asked
            self._armed[kind] = False
            record = self._record(kind, now, "guardian", reason, _finite(reading.Psi))
        else:
            return None
        self._hand_out(record, now)
        return record

    def observe(self, reading: Measured) -> None:
        """Take in a reading that nobody acts on: it belongs to the history, and to the effects of earlier acts."""
        self._note(reading)

    def trigger(self, kind: Intervention, now: float, by: str, *, queue: bool = True) -> InterventionRecord:
        """A person's intervention: whatever the readings, the cool-down and the off-switch say.

        The next `decide` hands it out, and whoever asks there acts on it. ``queue=False``: the caller acts himself.
        One that waits already is not queued twice.
        """
        for waiting in self._pending:
            if queue and waiting.kind is kind:
                return waiting
        by = by[:MAX_TEXT]
        record = self._record(kind, now, by, f"triggered by {by}", self._psi.last)
        self._triggered += 1
        if queue:
            self._pending.append(record)
        else:
            self._hand_out(record, now)
        return record

    def applied(self, id: str, changed: Mapping[str, str]) -> InterventionRecord | None:
        """Note what an intervention changed; ``None``: no record has this id (any more).

        Of long texts and of many changes, the beginning is kept.
        """
        for place, record in enumerate(self.records):
            if record.id == id:
                told = {name[:MAX_TEXT]: text[:MAX_TEXT] for name, text in changed.items()}
                kept = dict(list({**record.changed, **told}.items())[:MAX_CHANGES])
                self.records[place] = msgspec.structs.replace(record, changed=kept)
                return self.records[place]
        return None

    @property
    def thresholds(self) -> Thresholds:
        """Percentiles of the history, or the static ones where these are less eager, or the history is short."""
        how = self.settings
        if len(self._pe) < how.least_history:
            return Thresholds(how.nigredo_pe, how.albedo_h, how.albedo_psi)
        pe, h = self._pe.percentile(how.nigredo_percentile), self._h.percentile(how.albedo_percentile)
        psi = self._psi.percentile(100.0 - how.albedo_percentile)
        return Thresholds(
            min(max(how.nigredo_pe, pe), how.nigredo_pe * how.farthest),
            max(how.albedo_h, h),
            max(min(how.albedo_psi, psi), how.albedo_psi / how.farthest),
        )

    def _look(self, reading: Measured, now: float) -> tuple[Intervention, str] | None:
        """What the readings ask for, and why; takes ``reading`` in."""
        limits = self.thresholds  # of the readings before: none raises its own
        beyond = self._beyond(reading, limits)
        self._rearm(reading, limits)
        self._note(reading)
        if not beyond:
            return None
        hindrance = self._hindrance(now)
        if hindrance is None:
            for kind, reason in beyond:
                if self._armed[kind]:
                    return kind, reason
            hindrance = "hysteresis"
        self._withheld[hindrance] += 1
        return None

    def _beyond(self, reading: Measured, limits: Thresholds) -> list[tuple[Intervention, str]]:
        pe, h, psi = reading.PE, reading.H, reading.Psi
        found = []
        if pe > limits.nigredo_pe:
            found.append((Intervention.NIGREDO, f"PE {pe:.3f} is above {limits.nigredo_pe:.3f}"))
        if h >= limits.albedo_h and psi <= limits.albedo_psi:
            reason = (
                f"H {h:.3f} is not below {limits.albedo_h:.3f}, and Psi {psi:.3f} not above {limits.albedo_psi:.3f}"
            )
            found.append((Intervention.ALBEDO, reason))
        return found

    def _rearm(self, reading: Measured, limits: Thresholds) -> None:
        pe, h, psi, how = reading.PE, reading.H, reading.Psi, self.settings
        if pe < how.release * limits.nigredo_pe:
            self._armed[Intervention.NIGREDO] = True
        if h < limits.albedo_h - how.margin or psi > limits.albedo_psi + how.margin:
            self._armed[Intervention.ALBEDO] = True

    def _hindrance(self, now: float) -> str | None:
        if not self.enabled:
            return "off"
        if self.steps <= self.settings.warm_up_steps:
            return "warm_up"
        return "cooldown" if self._left_steps > 0 or self._left_s(now) > 0.0 else None

    @property
    def _left_steps(self) -> int:
        if self._last_step is None:
            return 0
        return max(0, self._last_step + self.settings.cooldown_steps + 1 - self.steps)

    def _left_s(self, now: float) -> float:
        if self._last_at is None or self._last_at > now:  # a clock that was set back must not hold for hours
            return 0.0
        return max(0.0, self._last_at + self.settings.cooldown_s - now)

    def _note(self, reading: Measured) -> None:
        self.steps += 1
        for history, figure in ((self._pe, reading.PE), (self._h, reading.H), (self._psi, reading.Psi)):
            if math.isfinite(figure):
                history.add(figure)
        after = self.settings.effect_steps
        for place in range(len(self.records) - 1, -1, -1):
            record = self.records[place]
            if self.steps - record.step > after:
                break
            if self.steps - record.step == after and record.psi_after is None:
                self.records[place] = msgspec.structs.replace(record, psi_after=_finite(reading.Psi))

    def _record(self, kind: Intervention, now: float, by: str, reason: str, psi: float | None) -> InterventionRecord:
        self._made += 1
        return InterventionRecord(
            id=f"{kind}-{self._made}", kind=kind, at=now, step=self.steps, by=by, reason=reason, psi=psi
        )

    def _hand_out(self, record: InterventionRecord, now: float) -> None:
        self.records.append(record)
        self.counts[record.kind] += 1
        self._last_step, self._last_at = self.steps, now

    # ---- looking ------------------------------------------------------------------------------------------------

    def status(self, now: float) -> GuardianStatus:
        """What it would do now."""
        return GuardianStatus(
            enabled=self.enabled,
            steps=self.steps,
            warming_up=self.steps < self.settings.warm_up_steps,
            thresholds=self.thresholds,
            armed={kind.value: armed for kind, armed in self._armed.items()},
            cooldown_left_steps=max(0, self._left_steps - 1),
            cooldown_left_s=self._left_s(now),
            pending=[record.id for record in self._pending],
            last=self.records[-1] if self.records else None,
        )

    def statistics(self) -> GuardianStatistics:
        """What it did so far."""
        total = sum(self.counts.values())
        pairs = [(r.psi, r.psi_after) for r in self.records if r.psi is not None and r.psi_after is not None]
        return GuardianStatistics(
            steps=self.steps,
            interventions={kind.value: count for kind, count in self.counts.items()},
            triggered=self._triggered,
            withheld=dict(self._withheld),
            steps_per_intervention=self.steps / total if total else None,
            psi_before=math.fsum(before for before, _ in pairs) / len(pairs) if pairs else None,
            psi_after=math.fsum(after for _, after in pairs) / len(pairs) if pairs else None,
            effects=len(pairs),
        )

    # ---- keeping ------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """Everything but the settings, for `load`."""
        return msgspec.msgpack.encode(
            _Saved(
                version=VERSION,
                enabled=self.enabled,
                steps=self.steps,
                pe=list(self._pe),
                h=list(self._h),
                psi=list(self._psi),
                armed=self._armed,
                last_step=self._last_step,
                last_at=self._last_at,
                pending=self._pending,
                records=list(self.records),
                counts=self.counts,
                made=self._made,
                triggered=self._triggered,
                withheld=self._withheld,
            )
        )

    def load(self, state: bytes) -> None:
        """Go on from what `state` gave.

        Raises
        ------
        ValueError
            It is none, or of another version; nothing has changed.
        """
        try:
            saved = msgspec.msgpack.decode(state, type=_Saved)
        except msgspec.DecodeError as error:
            raise ValueError(f"not a guardian's state: {error}") from None
        if saved.version != VERSION:
            raise ValueError(f"a guardian's state of version {saved.version}; this amaru reads version {VERSION}")
        if not all(map(math.isfinite, (*saved.pe, *saved.h, *saved.psi))):
            raise ValueError("a guardian's state with figures that are no numbers")
        self.enabled, self.steps = saved.enabled, saved.steps
        for history, figures in ((self._pe, saved.pe), (self._h, saved.h), (self._psi, saved.psi)):
            history.fill(figures)
        self._armed = {**dict.fromkeys(Intervention, True), **saved.armed}
        self._last_step, self._last_at = saved.last_step, saved.last_at
        self._pending = list(saved.pending)
        self.records = deque(saved.records, maxlen=KEPT)
        self.counts = {**dict.fromkeys(Intervention, 0), **saved.counts}
        self._made, self._triggered = saved.made, saved.triggered
        self._withheld = {name: saved.withheld.get(name, 0) for name in self._withheld}


def _finite(figure: float) -> float | None:
    return figure if math.isfinite(figure) else None
