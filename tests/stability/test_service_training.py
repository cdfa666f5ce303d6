"""A training that uses the service, beside one that has the field in its own process."""

from __future__ import annotations

import math

from service_world import EAGER, served

from amaru.learning.psi_field import FIGURES, LocalField, PsiField
from amaru.stability.guardian import Intervention


def rewards(episode: int) -> list[float]:
    return [0.5 + 0.01 * math.sin(7.0 * episode + 3.0 * agent) for agent in range(4)]


def test_it_reads_and_asks_as_the_service_does() -> None:
    local = LocalField(4, EAGER)
    said: list[str] = []
    with served(guardian=EAGER) as service:
        remote = PsiField(service.url, 4, say=said.append, clock=lambda: 0.0)
        for episode in range(80):
            told = rewards(episode) if episode != 70 else [9.0, -9.0, 9.0, -9.0]
            ours, theirs = local.read(told), remote.read(told)
            assert theirs is not None
            assert ours.figures == theirs.figures
            assert (ours.intervention, ours.id) == (theirs.intervention, theirs.id)
            if ours.id is not None:
                remote.applied(ours.id, {"agent 1": "forgot"})
                local.applied(ours.id, {"agent 1": "forgot"})
        records = service.get("/guardian/interventions")["interventions"]
    assert tuple(ours.figures) == FIGURES
    assert local.guardian.counts[Intervention.NIGREDO] >= 1
    assert local.guardian.records[-1].changed == records[0]["changed"] == {"agent 1": "forgot"}
    assert said == []
