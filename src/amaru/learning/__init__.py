"""Learn: training, evaluation and the artifacts that come of it.

For programs that bring their own world: ``SwarmCoordinator`` and ``RoutingAgent`` learn from ``State``s and rewards,
such as ``compute_reward``'s. They are imported when they are first asked for: the compiled kernels take their time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amaru.learning.agents import RoutingAgent, State
    from amaru.learning.rewards import compute_reward
    from amaru.learning.swarm import SwarmCoordinator

__all__ = ["RoutingAgent", "State", "SwarmCoordinator", "compute_reward"]

_HOME = {"RoutingAgent": "agents", "State": "agents", "SwarmCoordinator": "swarm", "compute_reward": "rewards"}


def __getattr__(name: str) -> Any:  # Any: what a module's attribute is
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
