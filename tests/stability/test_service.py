"""The psi-field service: every endpoint, over real sockets."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from service_world import EAGER, Clock, Served, served

from amaru.stability.field import StabilityField
from amaru.stability.field_settings import FieldSettings
from amaru.stability.guardian import Intervention

FIGURES = ("PE", "C", "U", "Phi", "H", "M", "dt_eff", "Psi")


@pytest.fixture
def service() -> Iterator[Served]:
    with served(guardian=EAGER) as one:
        yield one


def calm(service: Served, dimension: int = 3, steps: int = 60) -> list[Any]:
    rng = random.Random(1)
    return [
        service.post("/step", {"x": [rng.gauss(0.5, 0.01) for _ in range(dimension)], "apply_guardian": True})
        for _ in range(steps)
    ]


# ---- the field ----------------------------------------------------------------------------------------------------


def test_steps_answer_what_the_field_reads(service: Served) -> None:
    answer = service.post("/init", {"dimension": 3})
    assert (answer["dimension"], answer["kept"], answer["step"]) == (3, False, 0)
    assert answer["params"]["field"]["kind"] == "rewards"  # a training says no more than its dimension
    field = StabilityField(FieldSettings(dimension=3, kind="rewards"))
    for x in ([1.0, 2.0, 3.0], [1.5, None, 2.0], [1.2]):
        answer = service.post("/step", {"x": x, "at": 1000.0 + len(x)})
        reading = field.step(x, at=1000.0 + len(x))
        assert {name: answer[name] for name in FIGURES} == {name: getattr(reading, name) for name in FIGURES}
        assert answer["surprises"] == list(reading.surprises)
        assert answer["_guardian"] == {"intervention": None}
    assert answer["step"] == 3


def test_before_init_there_is_no_field(service: Served) -> None:
    answer = service.call("POST", "/step", {"x": [1, 2]})
    assert answer.status == 409
    assert answer.error["message"] == 'There is no field yet: POST /init {"dimension": 2} first.'
    assert service.get("/state")["reading"] is None
    assert service.get("/params")["field"] is None
    assert service.get("/health")["initialised"] is False
    assert service.get("/federation/metrics")["Psi"] is None


def test_init_with_the_same_settings_keeps_the_field_unless_it_is_to_be_reset(service: Served) -> None:
    service.post("/init", {"dimension": 2, "names": ["a", "b"]})
    calm(service, 2, 5)
    again = service.post("/init", {"dimension": 2})
    assert (again["kept"], again["step"], again["params"]["names"]) == (True, 5, ["a", "b"])
    assert service.post("/init", {"dimension": 2, "names": ["a", "c"]})["kept"] is False
    calm(service, 2, 5)
    reset = service.post("/init", {"dimension": 2, "reset": True})
    assert (reset["kept"], reset["step"], reset["params"]["names"]) == (False, 0, ["a", "c"])
    assert service.post("/init", {"dimension": 3})["params"]["names"] == []


def test_settings_can_be_given_and_are_shown(service: Served) -> None:
    given = {"dimension": 2, "kind": "latencies", "weights": {"PE": 2.0}, "bias": 1.0, "guardian": {"nigredo_pe": 3.0}}
    service.post("/init", given)
    params = service.get("/params")
    assert (params["field"]["kind"], params["field"]["weights"]["PE"], params["field"]["bias"]) == ("latencies", 2, 1)
    assert params["guardian"]["nigredo_pe"] == 3.0
    assert service.post("/init", {**given, "guardian": {"nigredo_pe": 4.0}})["kept"] is True
    assert service.get("/guardian/status")["thresholds"]["nigredo_pe"] == 4.0


def test_the_state_names_what_surprises(service: Served) -> None:
    service.post("/init", {"dimension": 2, "names": ["anvil.latency_ms", "birch.latency_ms"]})
    calm(service, 2)
    service.post("/step", {"x": [0.5, 9.0]})
    state = service.get("/state")
    assert state["surprises"]["birch.latency_ms"] > 3 > state["surprises"]["anvil.latency_ms"]
    assert state["reading"]["step"] == 61


# ---- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        ("/init", {}, "dimension", "is missing"),
        ("/init", {"dimension": 0}, "dimension", "not between 1 and 4096"),
        ("/init", {"dimension": 5000}, "dimension", "not between 1 and 4096"),
        ("/init", {"dimension": "three"}, "dimension", "Expected `int`"),
        ("/init", {"dimension": 2, "dimensions": 3}, "dimensions", "is unknown; known are dimension"),
        ("/init", {"dimension": 2, "kind": "prices"}, "kind", "neither 'rewards' nor 'latencies'"),
        ("/init", {"dimension": 2, "weights": {"Q": 1}}, "weights.Q", "known are M, C, U"),
        ("/init", {"dimension": 2, "names": ["a"]}, "names", "are 1, and the dimension is 2"),
        ("/init", {"dimension": 2, "names": ["a", "a"]}, "names", "comes twice"),
        ("/init", {"dimension": 2, "guardian": {"nigredo_pe": -1}}, "guardian.nigredo_pe", "> 0"),
        ("/init", {"dimension": 2, "guardian": {"pe": 1}}, "guardian.pe", "known are enabled, nigredo_pe"),
        ("/init", {"dimension": 2, "guardian": {"history": 50}}, "guardian", "100 readings are never there with"),
        ("/init", [2], None, "Expected `object`"),
        ("/step", {"x": [1, 2, 3, 4]}, "x", "has 4 values, and the field takes 3"),
        ("/step", {"x": [1, "two"]}, "x[1]", "Expected `float | null`, got `str`"),
        ("/step", {"x": [1, True]}, "x[1]", "got `bool`"),
        ("/step", {"y": [1]}, "y", "unknown field `y`"),
        ("/step", b"", "x", "missing required field `x`"),
        ("/step", b'{"x": [1, NaN]}', None, "send null for a value that is missing"),
        ("/step", b'{"x": [1e999]}', "x[0]", "out of range"),
        ("/step", b'{"x": [1', None, "Input data was truncated"),
        ("/step", b"\xff\xfe", None, "no JSON"),
        ("/step", b"[" * 100_000, None, ""),
        ("/step", {"x": [1], "at": -5}, "at", ">= 0"),
        ("/step", {"x": [1], "apply_guardian": "yes"}, "apply_guardian", "Expected `bool`"),
        ("/guardian/applied", {"id": "nigredo-1", "changed": {"a": 1}}, "changed[...]", "Expected `str`"),
        ("/guardian/nigredo", {"by": ""}, "by", "length >= 1"),
        ("/federation/swarm", {"nodes": []}, "nodes", "length >= 1"),
        ("/federation/swarm", {"nodes": [{"node": "a", "C": 2}]}, "nodes[0].C", "<= 1"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field_at_fault(
    service: Served, path: str, body: object, param: str | None, words: str
) -> None:
    service.post("/init", {"dimension": 3})
    answer = service.call("POST", path, body)
    assert answer.status == 400
    assert answer.error["param"] == param
    assert words in answer.error["message"]
    assert param is None or param.partition("[")[0] in answer.error["message"]
    assert service.get("/health")["step"] == 0


def test_a_longer_vector_is_cut_where_that_is_asked_for(service: Served) -> None:
    service.post("/init", {"dimension": 2})
    assert service.post("/step", {"x": [1, 2, 3], "cut": True})["step"] == 1


def test_bodies_are_bounded(service: Served) -> None:
    service.post("/init", {"dimension": 3})
    assert service.call("POST", "/step", b" " * (5 * 1024 * 1024)).status == 413
    assert service.get("/health")["status"] == "ok"


def test_other_paths_and_methods_are_told_what_there_is(service: Served) -> None:
    missing = service.call("GET", "/nope")
    assert missing.status == 404
    assert "POST /step" in missing.error["message"]
    wrong = service.call("GET", "/step")
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
    assert service.call("POST", "/metrics", {}).headers["allow"] == "GET, HEAD"
    assert service.call("HEAD", "/health").body == b""


def test_no_page_of_a_browser_can_change_anything(service: Served) -> None:
    answer = service.call("POST", "/guardian/nigredo", {}, origin="http://evil.example")
    assert answer.status == 403
    assert service.get("/guardian/status")["pending"] == []


# ---- the guardian -------------------------------------------------------------------------------------------------


def test_the_guardian_asks_where_the_field_is_surprised(service: Served) -> None:
    service.post("/init", {"dimension": 3})
    calm(service)
    unasked = service.post("/step", {"x": [9, -9, 9], "apply_guardian": False})
    assert unasked["PE"] > 1.5
    assert unasked["_guardian"] == {"intervention": None}
    calm(service)
    answer = service.post("/step", {"x": [90, -90, 90], "apply_guardian": True})
    word = answer["_guardian"]
    assert (word["intervention"], word["by"]) == ("nigredo", "guardian")
    assert word["reason"].startswith("PE ")
    told = service.post("/guardian/applied", {"id": word["id"], "changed": {"agent 2": "forgot"}})
    assert told["changed"] == {"agent 2": "forgot"}
    listed = service.get("/guardian/interventions")["interventions"]
    assert [record["changed"] for record in listed] == [{"agent 2": "forgot"}]
    assert service.get("/guardian/statistics")["interventions"] == {"nigredo": 1, "albedo": 0}
    assert service.get("/guardian/status")["last"]["id"] == word["id"]
    assert service.call("POST", "/guardian/applied", {"id": "nigredo-99", "changed": {}}).status == 404


@pytest.mark.parametrize("kind", ["nigredo", "albedo"])
def test_a_person_can_trigger_with_or_without_saying_who(service: Served, kind: str) -> None:
    service.post("/init", {"dimension": 2})
    anonymous = service.call("POST", f"/guardian/{kind}")
    assert anonymous.status == 200
    assert anonymous.json["pending"]["by"] == "operator"
    assert service.get("/guardian/status")["pending"] == [f"{kind}-1"]
    watched = service.post("/step", {"x": [1, 2], "apply_guardian": False})
    assert watched["_guardian"]["intervention"] is None
    assert service.post("/step", {"x": [1, 2]})["_guardian"]["intervention"] == kind
    service.post(f"/guardian/{kind}", {"by": "ada"})
    assert service.post("/step", {"x": [1, 2]})["_guardian"]["reason"] == "triggered by ada"
    assert service.get("/guardian/statistics")["triggered"] == 2


def test_the_guardian_can_be_switched_off_and_on(service: Served) -> None:
    service.post("/init", {"dimension": 3})
    assert service.post("/guardian/off")["enabled"] is False
    calm(service)
    assert service.post("/step", {"x": [9, -9, 9]})["_guardian"]["intervention"] is None
    assert service.get("/health")["guardian"] == "off"
    assert service.get("/guardian/statistics")["withheld"]["off"] == 1
    assert service.post("/init", {"dimension": 3, "reset": True})["kept"] is False
    assert service.get("/health")["guardian"] == "off"
    assert service.post("/guardian/on")["enabled"] is True


# ---- metrics and nodes --------------------------------------------------------------------------------------------


def exposed(service: Served) -> dict[str, float]:
    lines = service.call("GET", "/metrics").body.decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_metrics_for_prometheus(service: Served) -> None:
    assert "psi_field_density" not in exposed(service)
    service.post("/init", {"dimension": 3})
    service.post("/guardian/albedo")
    last = calm(service)[-1]
    found = exposed(service)
    assert found["psi_field_density"] == last["Psi"]
    assert found["psi_field_prediction_error"] == last["PE"]
    assert found["psi_field_continuity"] == last["C"]
    assert found["psi_field_futurity"] == last["U"]
    assert found["psi_field_phase_coherence"] == last["Phi"]
    assert found["psi_field_temporal_entropy"] == last["H"]
    assert found["psi_field_steps_total"] == 60
    assert found['guardian_interventions_total{kind="albedo"}'] == 1
    nigredo = service.service.guardian.counts[Intervention.NIGREDO]
    assert found['guardian_interventions_total{kind="nigredo"}'] == nigredo
    openmetrics = service.call("GET", "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert openmetrics.body.endswith(b"# EOF\n")


def test_nodes_can_be_put_together(service: Served) -> None:
    service.post("/init", {"dimension": 3})
    calm(service)
    with served(node="there") as other:
        other.post("/init", {"dimension": 2})
        nodes = [service.get("/federation/metrics"), other.get("/federation/metrics"), {"node": "gone"}]
    found = service.post("/federation/swarm", {"nodes": nodes})
    assert (found["nodes"], found["silent"], found["worst"]) == (1, ["gone", "there"], "here")
    assert (found["Psi"], found["C"]) == (nodes[0]["Psi"], nodes[0]["C"])


def test_many_callers_at_once_are_each_one_step(service: Served) -> None:
    from concurrent.futures import ThreadPoolExecutor

    service.post("/init", {"dimension": 2})
    with ThreadPoolExecutor(8) as pool:
        steps = list(pool.map(lambda n: service.post("/step", {"x": [n, n]})["step"], range(100)))
    assert sorted(steps) == list(range(1, 101))


def test_the_service_clock_dates_interventions() -> None:
    clock = Clock()
    with served(clock=clock) as service:
        service.post("/init", {"dimension": 1})
        clock.now = 1_900_000_000.0
        assert service.post("/guardian/albedo")["pending"]["at"] == 1_900_000_000.0
        assert json.loads(service.call("GET", "/state").body)["guardian"]["pending"] == ["albedo-1"]
