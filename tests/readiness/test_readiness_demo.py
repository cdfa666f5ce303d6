"""The parts of the demo: its scenario, its board, its view, its report, its processes."""

import asyncio
import io
from pathlib import Path

import pytest
from rich.console import Console

from amaru.readiness.caller import Caller
from amaru.readiness.children import Child, ChildError
from amaru.readiness.demo_board import Board, struck
from amaru.readiness.demo_report import DemoReport, incident_reports, markdown, undisturbed, write
from amaru.readiness.demo_scenario import LENGTH_S, scenario
from amaru.readiness.demo_verdict import verdict
from amaru.readiness.demo_view import LiveView, PlainView, dashboard
from amaru.readiness.json_client import CallError, JsonClient
from amaru.readiness.machine import this_machine
from amaru.readiness.measuring import Sample, quantiles, summarize
from amaru.readiness.player import Lane
from amaru.simulation import Fault, Incident, SimulatedProvider
from amaru.simulation.profiles import SEVEN

NAMES = ["a", "b", "c", "d"]


def test_the_scenario_aims_at_the_favourites_and_fits_the_run() -> None:
    incidents = scenario(NAMES, LENGTH_S / 4)
    assert [incident.at_s for incident in incidents] == sorted(incident.at_s for incident in incidents)
    assert all(incident.at_s > 0 and incident.at_s + incident.duration_s < LENGTH_S / 4 for incident in incidents)
    assert incidents[0].provider == "a"
    assert {incident.provider for incident in incidents} == set(NAMES)
    assert len({incident.kind for incident in incidents}) >= 6
    assert {incident.provider for incident in scenario(["a"], 60)} == {"a"}
    for incident in scenario(NAMES, 600):
        if incident.provider == "a":
            assert sum(_overlap(incident, other) for other in scenario(NAMES, 600) if other.provider == "a") == 1


def _overlap(one: Incident, two: Incident) -> bool:
    return one.at_s < two.at_s + two.duration_s and two.at_s < one.at_s + one.duration_s


def ended(at_s: float, provider: str, *, error: str = "", attempts: int = 1) -> Sample:
    return Sample(
        at_s=at_s, first_token_s=0.1, latency_s=0.5, provider=provider, error=error, attempts=attempts, cost_usd=0.01
    )


INCIDENT = Incident(provider="a", at_s=10, duration_s=10, kind="refuse")


@pytest.fixture
async def board():
    lanes = [Lane(name, Caller("http://127.0.0.1:9/v1", "m")) for name in ("through", "alone")]
    yield Board(*lanes, ["a", "b"], [INCIDENT], 60)
    for lane in lanes:
        await lane.caller.aclose()


async def test_the_board_tells_what_is_happening_from_what_was_measured(board: Board) -> None:
    for at_s in range(10):
        board.through.finished.append(ended(at_s, "a"))
    snapshot = board.snapshot(9.8)
    assert snapshot.events == []
    assert [(row.name, row.share, row.incident) for row in snapshot.rows] == [("a", 1.0, ""), ("b", 0.0, "")]
    board.through.finished.append(ended(10.5, "a", error="error_event"))
    for at_s in range(11, 15):
        board.through.finished.append(ended(at_s, "b", attempts=2))
    now = {"success": 0.5, "state": "open", "free_in_s": 3.2}
    board.saw_status({"providers": [{"id": "a", "status": "unavailable", "offers": [{"now": now}]}]})
    snapshot = board.snapshot(15.0)
    assert [str(event) for event in snapshot.events] == [
        "10 s: a refuses connections",
        "15 s: answers now come from b 100%",
    ]
    assert (snapshot.rows[0].seen, snapshot.rows[0].success) == ("back in 4 s", 0.5)
    assert snapshot.rows[0].incident == "refuses"
    totals = snapshot.amaru
    assert (totals.served, totals.failed, totals.saved) == (14, 1, 4)
    assert totals.cost_usd == pytest.approx(0.15)
    assert [str(event) for event in board.snapshot(20.5).events[2:]] == ["20 s: a is well again"]
    assert board.snapshot(21).amaru.served == 14  # nothing is counted twice


async def test_both_views_show_it(board: Board) -> None:
    board.through.finished.append(ended(1, "a"))
    board.note(10.5, "a word in between")
    for make, words in ((PlainView, ["10 s: a refuses", "11 s of 60 s"]), (LiveView, ["refuses connections", "alone"])):
        out = io.StringIO()
        with make(Console(file=out, width=150, height=40, force_terminal=make is LiveView), "a") as view:
            view.show(board.snapshot(11))
        for word in [*words, "a word in between"]:
            assert word in out.getvalue()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
async def test_the_live_view_cuts_nothing_and_fits_the_terminal(width: int, height: int) -> None:
    lanes = [Lane(name, Caller("http://127.0.0.1:9/v1", "m")) for name in ("through", "alone")]
    incidents = scenario([profile.name for profile in SEVEN], LENGTH_S)
    board = Board(*lanes, [profile.name for profile in SEVEN], incidents, LENGTH_S)
    board.saw_status(
        {
            "providers": [
                {
                    "id": profile.name,
                    "status": "unavailable",
                    "offers": [{"now": {"success": 1.0, "state": "half_open", "free_in_s": None}}],
                }
                for profile in SEVEN
            ]
        }
    )
    for lane in lanes:
        for place in range(12_345):
            lane.finished.append(ended(place / 123, SEVEN[place % 7].name, attempts=2))
            lane.finished[-1].first_token_s = 12.345
    for at_s in (20, 45, 60, 80, 95, 104, 130):
        out = io.StringIO()
        console = Console(file=out, width=width, height=height)
        console.print(dashboard(board.snapshot(at_s), "garnet", height))
        assert len(out.getvalue().splitlines()) <= height
        assert "…" not in out.getvalue()
    for lane in lanes:
        await lane.caller.aclose()


def report_of(through: list[Sample], alone: list[Sample], **fields) -> DemoReport:
    whole = {"duration_s": 30, "slo_first_token_s": 1.5}
    return DemoReport(
        **{
            "written_at": "2026-01-01T00:00:00+00:00",
            "machine": this_machine(),
            "command": "amaru demo --duration-s 30",
            "trace": "bundled, generated",
            "speed": 5,
            "seed": 7,
            "planned_s": 30,
            "complete": True,
            "stopped_because": "",
            "failed": False,
            "favourite": "a",
            "ranking": ("a", "b"),
            "through_amaru": summarize(through, **whole),
            "alone": summarize(alone, **whole),
            "incidents": incident_reports([INCIDENT], through, alone, "a", 30),
            "first_token_without_incident": {"through_amaru": quantiles([0.2]), "alone": quantiles([])},
            "billed_usd": {"a": 0.02, "b": 0.04},
            "alone_billed_usd": 0.03,
            "failed_attempts_usd": 0.001,
            "provider_calls": {"attempts": 5},
            "example": None,
            **fields,
        }
    )


def test_an_incident_is_judged_by_what_was_sent_while_it_lasted() -> None:
    through = [ended(5, "a"), ended(12, "b", attempts=2), ended(19.9, "b"), ended(25, "a")]
    alone = [ended(5, "a"), ended(12, "a", error="connect"), ended(19.9, "a"), ended(25, "a")]
    (entry,) = incident_reports([INCIDENT], through, alone, "a", 30)
    assert (entry.sent, entry.served_through_amaru, entry.saved_by_failover, entry.served_alone) == (2, 2, 1, 1)
    assert incident_reports([INCIDENT], through, alone, "b", 30)[0].served_alone is None
    assert incident_reports([INCIDENT], through, alone, "a", 9) == ()  # it had not begun
    assert incident_reports([INCIDENT], through, alone, "a", 14)[0].to_s == 14
    assert struck(through, INCIDENT) == through[1:3]
    assert undisturbed(through, [INCIDENT]) == [through[0], through[3]]


def test_the_report_says_what_was_measured_and_by_which_command(tmp_path: Path) -> None:
    through = [ended(5, "a"), ended(12, "b", attempts=2)]
    alone = [ended(5, "a"), ended(12, "a", error="connect")]
    data, text = write(report_of(through, alone), tmp_path / "new" / "place")
    shown = text.read_text()
    assert "| whole answers | 2 (100.00%) | 1 (50.00%) |" in shown
    assert "| of these saved by failover | 1 | - |" in shown
    assert "`amaru demo --duration-s 30`" in shown
    assert this_machine().processor in shown
    assert "| 10-20 s | a | refuses connections | 1 of 1 | 1 | 0 of 1 |" in shown
    assert '"favourite": "a"' in data.read_text()


def test_the_verdict_fits_80_columns_and_one_screen() -> None:
    incidents = scenario([profile.name for profile in SEVEN], LENGTH_S)
    samples = [ended(at_s / 50, "garnet", attempts=2) for at_s in range(6000)]
    report = report_of(
        samples,
        samples,
        favourite="garnet",
        incidents=incident_reports(incidents, samples, samples, "garnet", LENGTH_S),
    )
    out = io.StringIO()
    Console(file=out, width=80, height=24).print(verdict(report))
    assert "6000 of 6000 (100.0%)" in out.getvalue()
    assert "…" not in out.getvalue()
    assert len(out.getvalue().splitlines()) <= 20
    early = report_of([], [], complete=False, stopped_because="stopped by the user", incidents=())
    Console(file=out, width=80).print(verdict(early))
    assert "ended early (stopped by the user)" in out.getvalue()


def test_a_report_of_nothing_and_of_an_early_end_can_be_written() -> None:
    nothing = report_of([], [], complete=False, stopped_because="stopped by the user", billed_usd={}, incidents=())
    assert "ended early (stopped by the user)" in markdown(nothing)
    assert "None had begun." in markdown(nothing)


def test_a_trace_that_is_too_short_is_said_to_be() -> None:
    assert "300 s planned; ended with the trace" in markdown(report_of([], [], planned_s=300))
    assert "30 s planned; complete" in markdown(report_of([], []))


def test_the_saved_answer_is_shown_with_its_attempts() -> None:
    record = {
        "id": "d1",
        "policy": "rules",
        "ranked": [{"provider": "a", "reason": "first of 2"}],
        "refused": [{"provider": "c", "detail": "cooling down"}],
        "attempts": [
            {"provider": "a", "failure": "connect", "status": None, "latency_ms": 1.2},
            {"provider": "b", "failure": None, "status": 200, "latency_ms": 300.0},
        ],
    }
    shown = markdown(report_of([ended(1, "b", attempts=2)], [], example=record))
    assert "| a | connect | - | 1 ms |" in shown
    assert "| b | served | 200 | 300 ms |" in shown
    assert "c (cooling down)" in shown


async def test_json_calls_name_what_was_wrong() -> None:
    async with SimulatedProvider() as provider:
        client = JsonClient(provider.url)
        assert (await client.call("GET", "/health"))["status"] == "ok"
        assert (await client.call("POST", "/sim/faults", Fault(kind="cut")))["id"] == "f1"
        with pytest.raises(CallError, match="status 404"):
            await client.call("GET", "/nothing")
        await client.aclose()


async def test_closing_the_port_is_still_answered() -> None:
    async with SimulatedProvider() as provider:
        client = JsonClient(provider.url)
        fault = Fault(kind="refuse", under_way=True, duration_s=0.05)
        assert (await client.call("POST", "/sim/faults", fault))["id"] == "f1"
        await client.aclose()


# --- processes ------------------------------------------------------------------------------------------------------


async def test_a_child_is_waited_for_watched_and_ended(tmp_path: Path) -> None:
    child = await Child.start("sim", ["simulate", "--providers", "1", "--port-base", "0", "--json"], tmp_path)
    try:
        assert "anvil" in await child.line(lambda line: line.startswith("{"), 30)
        watch = asyncio.create_task(child.died())
        await asyncio.sleep(0)
        assert not watch.done()
    finally:
        await child.stop()
    assert "sim ended with status 0" in str(await watch)


async def test_a_child_that_does_not_start_shows_its_last_words(tmp_path: Path) -> None:
    child = await Child.start("amaru serve", ["serve", "--config", "missing.yaml"], tmp_path)
    with pytest.raises(ChildError, match=r"amaru serve ended while starting; its last lines:\n.*missing\.yaml"):
        await child.line(lambda line: "serves at" in line, 30)
    await child.stop()


async def test_a_child_that_says_nothing_is_not_waited_for_forever(tmp_path: Path) -> None:
    child = await Child.start("sim", ["simulate", "--providers", "1", "--port-base", "0", "--json"], tmp_path)
    try:
        with pytest.raises(ChildError, match="not ready within"):
            await child.line(lambda line: "never said" in line, 0.05)
    finally:
        await child.stop()
