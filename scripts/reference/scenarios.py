"""A scenario of the war-game, from the models that read it."""

from __future__ import annotations

from amaru.simulation.scenario_models import ScenarioFile
from reference.schema import sections

INTRO = """# Scenarios

Everything that a scenario file of the war-game may hold; [Scenarios of your own](../guides/scenarios.md) shows how to
write one. `amaru wargame check` names every mistake in a file at once, with its line and what to do. Beside these
fields, `extends` names a scenario, or a file relative to this one, whose fields are taken over.

A field of `hidden` that is a list of numbers, and `gpu_hours`, holds two: the lowest and the highest.
"""


def page() -> str:
    """The page's Markdown."""
    return "\n".join([INTRO, *sections(ScenarioFile.model_json_schema(), "A scenario file")])
