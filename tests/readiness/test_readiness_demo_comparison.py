"""Two policies over the same requests: what an answer was worth, and by how much the second is better or worse."""

from __future__ import annotations

from pathlib import Path

import pytest

from amaru.config import parse
from amaru.readiness.demo_comparison import Comparison, Judge, Side, comparison
from amaru.readiness.demo_comparison_report import ComparisonReport, markdown, write
from amaru.readiness.demo_scenario import LENGTH_S, scenario
from amaru.readiness.demo_stage import ranking_of
from amaru.readiness.machine import this_machine
from amaru.readiness.measuring import UNFINISHED, Sample, summarize
from amaru.simulation import Incident
from amaru.simulation.gateway_config import gateway_config
from amaru.simulation.profiles import SEVEN

INCIDENT = Incident(provider="cobalt", at_s=10, duration_s=10, kind="refuse")


def sent(at_s: float, provider: str = "cobalt", *, error: str = "", first_token_s: float | None = 0.14) -> Sample:
    return Sample(
        at_s=at_s, provider=provider, error=error, first_token_s=first_token_s, input_tokens=1000, output_tokens=130
    )


def compared(first: list[Sample], second: list[Sample]) -> Comparison:
    return comparison([first, second], SEVEN, [INCIDENT], elapsed_s=60.0)


def test_an_answer_is_worth_what_the_formula_says_and_none_is_worth_nothing() -> None:
    judge = Judge(SEVEN)
    # flint is the cheapest: 0.28 and 0.36 USD per million tokens; cobalt takes 0.88 for both, and is the quickest.
    best = 0.28 + 130 / 1130 * 0.08
    assert judge.utility(sent(0.0)) == pytest.approx(0.4 * best / 0.88 + 0.3 * 1.0 + 0.15 * 0.95 + 0.15)
    assert judge.utility(sent(0.0, first_token_s=0.28)) == pytest.approx(judge.utility(sent(0.0)) - 0.15)
    assert judge.utility(sent(0.0, error="connect")) == 0.0
    assert judge.utility(sent(0.0, "", first_token_s=None)) == 0.0


def test_differences_are_of_the_same_requests() -> None:
    times = [float(at_s) for at_s in range(60)]
    first = [sent(at_s, error="connect" if 10 <= at_s < 20 else "") for at_s in times]
    second = [sent(at_s, first_token_s=0.14 if at_s < 30 else 0.28) for at_s in times]
    found = compared([*first, sent(60.0)], [*second, sent(61.0, error=UNFINISHED)])
    whole, calm, incident = found.phases
    assert (whole.requests, whole.served) == (60, (50, 60))
    assert (calm.requests, calm.served) == (50, (50, 50))
    assert (incident.name, incident.requests, incident.served) == ("cobalt refuses", 10, (0, 10))
    assert found.success.mean == pytest.approx(10 / 60)
    assert found.success.low is not None
    assert found.success.high is not None
    assert found.success.low < 10 / 60 < found.success.high
    assert found.first_token_ms.mean == pytest.approx(30 * 140 / 50)
    assert found.utility.mean == pytest.approx(whole.utility[1] - whole.utility[0])


def test_equal_lanes_do_not_differ_and_nothing_can_be_said_of_nothing() -> None:
    lane = [sent(float(at_s)) for at_s in range(60)]
    found = compared(lane, list(lane))
    assert (found.utility.mean, found.utility.low, found.utility.high) == (0.0, 0.0, 0.0)
    nothing = compared([], [])
    assert (nothing.utility.mean, nothing.utility.low) == (0.0, None)


def test_the_incidents_aim_by_the_rules_order_and_gray_ones_come_besides() -> None:
    config = parse(gateway_config([(profile, "http://127.0.0.1:9/v1") for profile in SEVEN]), env={})
    ranking = ranking_of(config)
    assert sorted(ranking) == sorted(profile.name for profile in SEVEN)
    assert ranking == ranking_of(config)
    plain, gray = scenario(ranking, LENGTH_S), scenario(ranking, LENGTH_S, gray=True)
    more = [incident for incident in gray if incident not in plain]
    assert len(gray) == len(plain) + len(more)
    assert all(incident.probability < 0.5 for incident in more)
    assert all(incident.at_s + (incident.duration_s or 1e9) < LENGTH_S for incident in more)


def test_the_report_puts_both_side_by_side(tmp_path: Path) -> None:
    first = [sent(float(at_s), error="connect" if 10 <= at_s < 20 else "") for at_s in range(60)]
    second = [sent(float(at_s)) for at_s in range(60)]
    sides = tuple(
        Side(
            policy=policy,
            summary=summarize(lane, duration_s=60.0, slo_first_token_s=1.5),
            billed_usd=0.05,
            attempts=60,
            outcomes_learned=learned,
        )
        for policy, lane, learned in (("rules", first, 0), ("hybrid", second, 61))
    )
    report = ComparisonReport(
        written_at="2026-01-01T00:00:00+00:00",
        machine=this_machine(),
        command="amaru demo --compare",
        trace="bundled, generated",
        speed=5,
        seed=7,
        planned_s=60,
        stopped_because="",
        failed=False,
        sides=sides,
        comparison=compared(first, second),
    )
    data, text = write(report, tmp_path / "new")
    shown = text.read_text()
    assert shown == markdown(report)
    assert "| whole answers | 50 (83.33%) | 60 (100.00%) | +16.67 points (" in shown
    assert "| cobalt refuses | 10-20 s | 10 | 0 | 10 |" in shown
    assert "| billed per 1,000 whole answers | $1.0000 | $0.8333 |" in shown
    assert "`amaru demo --compare`" in shown
    assert '"outcomes_learned": 61' in data.read_text()
