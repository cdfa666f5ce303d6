"""One worker among those of a machine: the memory that they share, and its place in it.

The owner (worker 0) senses, heals, learns and keeps for all; see ``owner`` and ``member``. Every worker serves.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from amaru.routing.shared import CONNECTIONS, N_OWN, OWNER, Memory
from amaru.routing.shared_live import SharedSlab

if TYPE_CHECKING:
    from amaru.mesh.mesh import Mesh

ROUND_S = 0.02
"""Between two looks at what other workers changed."""
BUS, RELAY = "bus.sock", "relay.sock"
"""In the folder that the workers share: where the owner takes messages, and requests that are for it."""


class Company:
    """A worker's place among the others.

    Parameters
    ----------
    memory
        What they share.
    folder
        Holds the sockets at which the owner is reached.
    """

    def __init__(self, memory: Memory, folder: Path) -> None:
        self.memory = memory
        self.folder = folder
        self.slab = SharedSlab(memory)
        self.mesh: Mesh
        """Set by the mesh itself."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def owns(self) -> bool:
        """Whether this worker is the owner."""
        return self.memory.worker == OWNER

    @property
    def worker(self) -> int:
        """Its number."""
        return self.memory.worker

    def may_take(self, connections: int) -> bool:
        """Whether the next connection is this worker's, which has so many: nobody who takes any has fewer."""
        self.memory.own_cells[self.memory.worker * N_OWN + CONNECTIONS] = connections
        return connections <= float(self.memory.own[:, CONNECTIONS].min())

    def begin(self) -> None:
        """Follow what other workers change, from now on."""
        self._timer = asyncio.get_running_loop().call_later(ROUND_S, self._round)

    def _round(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(ROUND_S, self._round)
        self.slab.follow()

    def end(self) -> None:
        """Follow them no longer."""
        if self._timer is not None:
            self._timer.cancel()
