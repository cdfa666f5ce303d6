"""Fixtures of the gateway's tests; what they make is in ``gateway_world``."""

from gateway_world import make_world, world

__all__ = ["make_world", "world"]
