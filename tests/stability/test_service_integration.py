"""A training of one's own and the service: ``PsiFieldIntegration``."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from service_world import EAGER, Served, served

from amaru.errors import StorageError
from amaru.stability import PsiFieldIntegration
from amaru.stability.client import FIRST_PAUSE_S


class Timer:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def of(service: Served, **options: object) -> PsiFieldIntegration:
    return PsiFieldIntegration(service.url, say=lambda _: None, **options)  # type: ignore[arg-type]  # any of them


# ---- sending ------------------------------------------------------------------------------------------------------


def test_rewards_are_steps_of_a_field_of_rewards() -> None:
    with served() as service:
        psi = of(service)
        psi.send_agent_metrics([0.1, 0.2, 0.3])
        metrics = psi.send_agent_metrics(np.array([0.2, math.nan, 0.3]))
        assert metrics["step"] == 2
        assert {"Psi", "C", "U", "Phi", "H", "PE", "M", "dt_eff", "_guardian"} <= metrics.keys()
        assert service.get("/params")["field"]["kind"] == "rewards"
        assert psi.send_agent_metrics([0.1, 0.2])["step"] == 1  # other agents are another field
        assert psi.missed == 0


def test_a_service_that_is_away_stops_nothing_and_is_told_once() -> None:
    with served() as service:
        url = service.url
    said: list[str] = []
    timer = Timer()
    psi = PsiFieldIntegration(url, say=said.append, timer=timer)
    for _ in range(3):
        metrics = psi.send_agent_metrics([0.1, 0.2])
        assert metrics == {}
        assert psi.check_intervention_needed(metrics) is None
        assert psi.get_swarm_health() == {}
        assert psi.record_intervention(metrics, "albedo", {}) is False
        timer.now += FIRST_PAUSE_S
    assert len(said) == 1
    assert "is away" in said[0]
    assert psi.missed == 6


def test_a_service_that_was_restarted_is_told_the_dimension_again(tmp_path: Path) -> None:
    with served() as service:
        timer = Timer()
        psi = of(service, timer=timer)
        psi.send_agent_metrics([0.1, 0.2])
        service.service.field = None  # as after a restart without its file
        assert psi.send_agent_metrics([0.1, 0.2]) == {}
        timer.now += FIRST_PAUSE_S
        assert psi.send_agent_metrics([0.1, 0.2])["step"] == 1


@pytest.mark.parametrize("url", ["", "localhost:8000", "http://h/?q=1"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not the URL of a service"):
        PsiFieldIntegration(url)


# ---- interventions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metrics", "needed"),
    [
        ({"PE": 1.6, "H": 0.1, "Psi": 0.9}, "nigredo"),
        ({"PE": 1.5, "H": 0.1, "Psi": 0.9}, None),
        ({"PE": 0.1, "H": 0.9, "Psi": 0.3}, "albedo"),
        ({"PE": 1.6, "H": 0.9, "Psi": 0.3}, "nigredo"),
        ({"PE": 0.1, "H": 0.9, "Psi": 0.9}, None),
        ({"PE": 0.1, "H": 0.1, "Psi": 0.9, "_guardian": {"intervention": "albedo"}}, "albedo"),
        ({"PE": 0.1, "_guardian": {"intervention": None}}, None),
        ({"PE": 0.1, "_guardian": {"intervention": "rubedo"}}, None),
        ({"PE": 0.1, "_guardian": "albedo"}, None),
        ({"PE": math.nan, "H": None, "Psi": "low"}, None),
        ({"PE": 10**400, "H": True, "Psi": 0.1}, None),
        ({}, None),
    ],
)
def test_what_a_step_needs(metrics: dict[str, object], needed: str | None) -> None:
    assert PsiFieldIntegration().check_intervention_needed(metrics) == needed


def test_what_an_intervention_changed_reaches_the_guardian() -> None:
    with served(guardian=EAGER) as service:
        psi = of(service)
        psi.send_agent_metrics([0.5])
        service.post("/guardian/albedo", {"by": "ada"})
        metrics = psi.send_agent_metrics([0.5])
        assert psi.check_intervention_needed(metrics) == "albedo"
        assert psi.record_intervention(metrics, "nigredo", {"agent 0": "forgot"}) is False
        assert psi.record_intervention(metrics, "albedo", {"epsilon": "0.1 -> 0.15"}) is True
        assert service.get("/guardian/status")["last"]["changed"] == {"epsilon": "0.1 -> 0.15"}


# ---- records ------------------------------------------------------------------------------------------------------


def lines_of(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_training_steps_are_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "training.jsonl"
    psi = PsiFieldIntegration(remembrancer_path=path, clock=lambda: 12.5)
    record = psi.record_training_step(1, {"reward": np.float64(0.5), "worst": math.nan, "all": np.array([1, 2])})
    again = PsiFieldIntegration(remembrancer_path=str(path), clock=lambda: 13.5)  # appends, and replaces nothing
    again.record_training_step(2, {"note": "línea\nnueva"})
    assert record["step"] == 1
    assert lines_of(path) == [
        {"kind": "training_step", "step": 1, "at": 12.5, "metrics": {"reward": 0.5, "worst": None, "all": [1, 2]}},
        {"kind": "training_step", "step": 2, "at": 13.5, "metrics": {"note": "línea\nnueva"}},
    ]


def test_a_torn_line_stays_alone(tmp_path: Path) -> None:
    path = tmp_path / "training.jsonl"
    path.write_bytes(b'{"kind": "trai')
    PsiFieldIntegration(remembrancer_path=path, clock=lambda: 1.0).record_training_step(7, {})
    torn, whole = path.read_bytes().splitlines()
    assert torn == b'{"kind": "trai'
    assert json.loads(whole)["step"] == 7


def test_what_cannot_be_recorded_raises(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no remembrancer_path"):
        PsiFieldIntegration().record_training_step(1, {})
    with pytest.raises(StorageError, match="step 1 was not recorded"):
        PsiFieldIntegration(remembrancer_path=tmp_path).record_training_step(1, {})
    with pytest.raises(StorageError, match="step 1 was not recorded"):
        PsiFieldIntegration(remembrancer_path=tmp_path / "nowhere" / "x.jsonl").record_training_step(1, {})
    with pytest.raises(TypeError, match="hold a object"):
        PsiFieldIntegration(remembrancer_path=tmp_path / "x.jsonl").record_training_step(1, {"x": object()})
    assert not (tmp_path / "x.jsonl").exists()


# ---- several nodes ------------------------------------------------------------------------------------------------


def test_several_nodes_are_one_swarm() -> None:
    with served() as gone:
        silent = gone.url
    with served(node="one") as one, served(node="two") as two:
        for service in (one, two):
            for n in range(20):
                of(service).send_agent_metrics([0.1 * n, 0.2])
        health = of(one, nodes=[two.url, silent]).get_swarm_health()
        figures = [service.get("/federation/metrics") for service in (one, two)]
    assert (health["nodes"], health["silent"]) == (2, [silent])
    for name in ("C", "U", "Phi", "Psi"):
        assert health[name] == pytest.approx((figures[0][name] + figures[1][name]) / 2)
