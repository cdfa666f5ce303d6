"""What people and their tools read of a mesh: its offers, its status, its decisions. Nothing here changes anything."""

from __future__ import annotations

from typing import Any

import msgspec

from amaru import __version__
from amaru.domain import Tenant
from amaru.mesh.accounts import MeshAccounts
from amaru.mesh.ledger_reading import LedgerReader
from amaru.mesh.mesh import Mesh
from amaru.mesh.records import page_of, summary_of
from amaru.routing.board import OfferHealth

Json = dict[str, Any]  # Any: a JSON document


class SensingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is sensed now, in brief; ``GET /health/providers`` has all of it."""

    enabled: bool
    patterns: dict[str, str]
    """Those under way, by id, in words."""
    healings: dict[str, str]
    """Those in force, by id: of what, and why."""
    psi: float | None
    """Stability of the whole; ``None``: the field is off, or has taken no step."""
    observed: int
    """Attempts taken in since the start."""
    dropped: int
    """Attempts that were not: the queue was full, or they could not be read."""
    memory: str
    """``ok``, or why what is remembered cannot be written."""


class Views:
    """Read-only views over a mesh, and its accounts if it has some, as JSON values."""

    def __init__(self, mesh: Mesh, accounts: MeshAccounts | None = None) -> None:
        self._mesh = mesh
        self._accounts = accounts
        self._started_at = mesh.clock()
        self._reader = None if mesh.ledger is None else LedgerReader(mesh.ledger)

    def models(self, tenant: Tenant) -> Json:
        """OpenAI's list of models: the resources and aliases that the tenant may use."""
        board = self._mesh.plan.board
        names = [name for name in board.resources() if tenant.resources is None or name in tenant.resources]
        return {
            "object": "list",
            "data": [{"id": name, "object": "model", "created": 0, "owned_by": "amaru"} for name in names],
        }

    def providers(self, tenant: Tenant | None = None) -> list[Json]:
        """Each provider with its offers and how they fare now, for a tenant those it may use; no address, no key."""
        plan = self._mesh.plan
        allowed = None if tenant is None or tenant.resources is None else plan.board.rows_of(tenant.resources)
        health = {entry.offer: entry for entry in self._mesh.offer_health()}
        found = []
        for name, settings in plan.settings.items():
            rows = plan.board.rows_of_provider.get(name, ())
            if allowed is not None:
                rows = tuple(row for row in rows if row in allowed)
                if not rows:
                    continue
            offers = [plan.board.offers[row] for row in rows]
            found.append(
                {
                    "id": name,
                    "protocol": settings.protocol,
                    "regions": settings.regions,
                    "status": best_of([health[offer.id] for offer in offers]),
                    "offers": [
                        {
                            **msgspec.to_builtins(offer),
                            "capabilities": [flag.name.lower() for flag in offer.capabilities if flag.name],
                            "status": status_of(health[offer.id]),
                            "now": msgspec.to_builtins(health[offer.id]),
                        }
                        for offer in offers
                    ],
                }
            )
        return found

    def health(self) -> Json:
        """``ok``: all can be served; ``degraded``: some offers or the store ail; ``down``: nothing can be served."""
        mesh = self._mesh
        board = mesh.plan.board
        health = mesh.offer_health()
        free = {entry.offer for entry in health if status_of(entry) != "unavailable"}
        served = {
            name: any(board.offers[row].id in free for row in rows.tolist())
            for name in board.resources()
            if (rows := board.pool(name)) is not None
        }
        store = mesh.store.status()
        if not any(served.values()):
            status = "down"
        elif len(free) < len(health) or not store.healthy:
            status = "degraded"
        else:
            status = "ok"
        return {
            "status": status,
            "resources": {"served": sum(served.values()), "configured": len(served)},
            "offers": {"available": len(free), "configured": len(health)},
            "store": "ok" if store.healthy else "failing",
        }

    def status(self) -> Json:
        """What an operator asks first."""
        mesh = self._mesh
        mesh.record_ended()
        config, metrics = mesh.plan.config, mesh.metrics
        assert metrics.in_flight is not None  # a mesh watches both, from its beginning
        assert metrics.store is not None
        return {
            "version": __version__,
            "uptime_s": round(mesh.clock() - self._started_at, 3),
            "health": self.health(),
            "policy": mesh.plan.router.policy.name,
            "exploration": mesh.plan.router.exploration,
            "configuration": {"path": str(config.path), "digest": config.digest.hex()[:16]},
            "in_flight": metrics.in_flight(),
            "traffic": mesh.metrics.summary(),
            "store": msgspec.to_builtins(metrics.store()),
            "ledger": None if mesh.ledger is None else msgspec.to_builtins(mesh.ledger.status()),
            "accounts": None if self._accounts is None else {"store": self._accounts.failure or "ok"},
            "sensing": msgspec.to_builtins(self._sensing()),
            "providers": self.providers(),
        }

    def _sensing(self) -> SensingStatus:
        sensing = self._mesh.sensing
        reading = sensing.steadiness.reading
        # Copied first: a look may be under way beside this thread.
        patterns = list(sensing.sense.patterns.active.values())
        healings = [healing for healing in list(sensing.acting.healer.active.values()) if healing.applied]
        return SensingStatus(
            enabled=sensing.enabled,
            patterns={one.id: f"{one.kind.value} of {', '.join(one.providers)}: {one.detail}" for one in patterns},
            healings={one.id: f"{one.kind.value} of {', '.join(one.offers)}: {one.reason}" for one in healings},
            psi=None if reading is None else reading.Psi,
            observed=sensing.observed,
            dropped=sensing.intake.dropped + sensing.lost,
            memory=sensing.memory_failure or "ok",
        )

    def policy(self) -> Json:
        """The policy that ranks, and what it has learned."""
        mesh = self._mesh
        mesh.record_ended()
        artifact = mesh.artifacts.view(mesh.plan.config) if mesh.artifacts is not None else None
        return {**mesh.learner.view(), "exploration": mesh.plan.router.exploration, "artifact_source": artifact}

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """The exposition of all metrics and its content type, as ``Metrics.render``."""
        self._mesh.record_ended()
        return self._mesh.metrics.render(accept)

    async def decision(self, decision_id: str) -> Json | None:
        """One stored decision with everything known of it. Raises ``StorageError``."""
        stored = await self._mesh.find(decision_id)
        if stored is None:
            return None
        page = page_of(stored, await self._mesh.store.board(stored.record.board_version))
        reader = self._reader
        page["ledger"] = None if reader is None else msgspec.to_builtins(await reader.receipts(stored))
        return page

    async def ledger_file(self, name: str) -> bytes | None:
        """A public file of the ledger; ``None``: it has none of this name. Raises ``LedgerError``."""
        return None if self._reader is None else await self._reader.file(name)

    async def ledger_names(self, folder: str) -> list[str] | None:
        """What lies in a public folder of the ledger; ``None``: it has none of this name. Raises ``LedgerError``."""
        return None if self._reader is None else await self._reader.names(folder)

    async def decisions(self, *, limit: int, **filters: Any) -> Json:  # Any: as DecisionStore.recent names them
        """A page of stored decisions, newest first. Raises ``StorageError``."""
        self._mesh.record_ended()
        page = await self._mesh.store.recent(limit, **filters)
        return {"decisions": [summary_of(record) for record in page.items], "next_cursor": page.next_cursor}


def status_of(health: OfferHealth) -> str:
    """``available``, ``throttled`` (back by itself soon), ``recovering`` (a probe may come or is under way) or
    ``unavailable`` (its breaker keeps requests away)."""
    if health.state != "closed":
        return "recovering" if health.state == "half_open" or health.free_in_s == 0.0 else "unavailable"
    return "throttled" if health.free_in_s is None or health.free_in_s > 0.0 else "available"


def best_of(offers: list[OfferHealth]) -> str:
    """The status of a provider: of its best offer, or ``unused`` where it has none."""
    found = {status_of(offer) for offer in offers}
    return next(
        (status for status in ("available", "throttled", "recovering", "unavailable") if status in found), "unused"
    )
