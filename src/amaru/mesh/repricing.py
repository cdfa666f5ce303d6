"""Prices that change by their dates, while nobody edits the configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from amaru.mesh.mesh import Mesh
from amaru.telemetry.logs import get_logger

log = get_logger("mesh")

LOOK_AGAIN_S = 1.0
"""Clocks are set and configurations replaced meanwhile, so no wait is longer."""


async def follow_prices(mesh: Mesh, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Serve at the new prices from their date on, until cancelled.

    The same configuration is taken in again, as if its file had been written: requests under way end, and are charged,
    at the prices that they began with.
    """
    while True:
        plan = mesh.plan
        left_s = plan.prices_until - mesh.wall()
        if left_s <= 0.0:
            mesh.reload(plan.config)
            log.info("prices_changed")
            continue
        await sleep(min(left_s, LOOK_AGAIN_S))
