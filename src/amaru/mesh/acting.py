"""What is done about what was sensed: healings, foreseen failures, and the guardian's two interventions.

``nigredo`` drains the worst provider, ``albedo`` has more first attempts try another offer, each for a bounded time.
All of it goes through the healer's levers or the router's exploration, and ends by leaving things as configured.

Belongs to the event loop's thread, but for ``observe``, which may run beside it while nothing else does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from amaru.health.healer import Healer
from amaru.health.healing import HealingKind, Levers, SelfHealingAction
from amaru.health.healing_settings import HealerSettings, Mode
from amaru.health.observation import Observation
from amaru.health.report import HealthReport, ProviderHealth
from amaru.health.sense import Looked
from amaru.stability.guardian import Guardian, Intervention, InterventionRecord
from amaru.stability.utility import utility_of

if TYPE_CHECKING:
    from amaru.mesh.mesh import Mesh

GUARDIAN = "guardian"
NIGREDO_S = 60.0
"""How long the worst provider is drained."""
ALBEDO_S = 300.0
"""How long exploration is raised."""
ALBEDO_EXPLORATION = 0.05
"""Share of first attempts that try another offer meanwhile, at least."""
OWN_OUTCOMES = 5.0
"""With so many attempts of its own in the last half hour or so, a machine goes by what it saw itself."""


class Acting:
    """The healer of a mesh, and the hands of its guardian."""

    def __init__(self, mesh: Mesh, levers: Levers) -> None:
        self.healer = Healer(HealerSettings(mode=_mode(mesh)), levers, mesh.rng)
        self.doubts: Mapping[str, float] = {}
        """How far the answers of offers are doubted, by what was seen here."""
        self.heard: Mapping[str, float] = {}
        """The same, by what other machines saw."""
        self._foreseen: set[str] = set()
        self._mesh = mesh
        self._drains: dict[str, float] = {}  # the guardian's own, by action: when each ends
        self._explore_until = 0.0

    def observe(self, observation: Observation) -> None:
        """Take in an attempt: effects are measured by them."""
        self.healer.observe(observation)

    def act(self, looked: Looked, now: float) -> list[SelfHealingAction]:
        """Act on what a look found; the healings that began, changed or ended."""
        foreseeing = self._mesh.plan.config.health.prediction
        self.doubts = looked.doubts
        risks = {**dict.fromkeys(self._foreseen, 0.0), **self._heard_of(now), **looked.risks}
        for offer, probability in risks.items():
            self.healer.foresee(offer, round(probability, 2) if foreseeing else 0.0)
        self._foreseen = {offer for offer, probability in risks.items() if probability > 0.0}
        self._end_interventions(now)
        return self.healer.look(looked.patterns, now, self._mesh.sensing.sense.patterns.active)

    def _heard_of(self, now: float) -> dict[str, float]:
        """What others doubt of which nothing was seen here lately."""
        signatures = self._mesh.sensing.sense.signatures
        return {
            offer: doubt for offer, doubt in self.heard.items() if signatures.view(offer, now).outcomes < OWN_OUTCOMES
        }

    # ---- the guardian -------------------------------------------------------------------------------------------

    def intervene(self, record: InterventionRecord, guardian: Guardian, report: HealthReport) -> InterventionRecord:
        """Do what the guardian, or a person through it, asks for; the record with what that changed."""
        nigredo = record.kind is Intervention.NIGREDO
        changed = self._drain_worst(record, report) if nigredo else self._explore(report.at)
        return guardian.applied(record.id, changed) or record

    def _drain_worst(self, record: InterventionRecord, report: HealthReport) -> dict[str, str]:
        """Drain the offers of the worst provider, but for those without which a resource has too few others."""
        worst = min(self._in_use(report), key=_worth, default=None)
        if worst is None:
            return {"nothing": "no provider is in use"}
        changed: dict[str, str] = {}
        refused = ""
        for view in worst.offers:
            try:
                action = self.healer.pin(
                    HealingKind.DRAIN, (view.offer,), report.at, by=GUARDIAN, reason=f"nigredo: {record.reason}"
                )
            except ValueError as error:
                refused = str(error)
                continue
            self._drains[action.id] = report.at + NIGREDO_S
            changed |= {**action.changed, worst.provider: f"drained for {NIGREDO_S:.0f} s"}
        return changed or {"nothing": refused}

    def _in_use(self, report: HealthReport) -> Iterable[ProviderHealth]:
        return [one for one in report.providers if one.signature.total and "drained" not in one.steered]

    def _explore(self, now: float) -> dict[str, str]:
        router = self._mesh.plan.router
        before = router.exploration
        self._explore_until = now + ALBEDO_S
        router.exploration = max(before, ALBEDO_EXPLORATION)
        return {"exploration": f"{before:g} -> {router.exploration:g} for {ALBEDO_S:.0f} s"}

    def _end_interventions(self, now: float) -> None:
        for id, until in list(self._drains.items()):
            if now >= until:
                del self._drains[id]
                if id in self.healer.active:  # a person may have ended it
                    self.healer.unpin(id, now)
        plan = self._mesh.plan
        usual = plan.config.routing.exploration
        if now < self._explore_until:
            plan.router.exploration = max(usual, ALBEDO_EXPLORATION)  # a reload brings another router
        elif self._explore_until:
            self._explore_until = 0.0
            plan.router.exploration = usual

    # ---- living -------------------------------------------------------------------------------------------------

    def reload(self, gone: Iterable[str], now: float) -> None:
        """The configuration changed; these offers are ``gone``."""
        for offer in gone:
            self.healer.foresee(offer, 0.0)
        mode = _mode(self._mesh)
        if mode != self.healer.settings.mode:
            self.healer.set_mode(mode, now)

    def load(self, state: bytes | None, now: float) -> list[str]:
        """Go on from a state that was kept; gives back why it cannot be used."""
        if state is None:
            return []
        try:
            self.healer.load(state, now)
        except ValueError as error:
            return [f"the healer begins anew: {error}"]
        for action in list(self.healer.active.values()):
            if action.by == GUARDIAN and action.until is None:
                self._drains[action.id] = action.at + NIGREDO_S
        return []


def _mode(mesh: Mesh) -> Mode:
    return mesh.plan.config.health.healing


def _worth(provider: ProviderHealth) -> float:
    """What an attempt there is worth, 0 to 1; the least comes first."""
    over = provider.signature
    return utility_of(1.0 - over.error_rate, provider.coherence, (over.latency_p50_ms or 0.0) / 1e3)
