"""HTTP: the OpenAI-compatible API, the agent API, and what operators read."""

from amaru.gateway.server import Gateway

__all__ = ["Gateway"]
