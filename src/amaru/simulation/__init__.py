"""Simulated provider servers, the faults that strike them, and traces of traffic."""

from amaru.simulation.faults import Fault, Incident
from amaru.simulation.profiles import INSTANT, SEVEN, Latency, ProviderProfile, builtin
from amaru.simulation.provider import SimulatedProvider

__all__ = ["INSTANT", "SEVEN", "Fault", "Incident", "Latency", "ProviderProfile", "SimulatedProvider", "builtin"]
