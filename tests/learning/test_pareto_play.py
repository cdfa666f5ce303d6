"""One model, every preference: only the weights differ."""

from __future__ import annotations

import numpy as np
import pytest

from amaru.learning.evaluation import Player
from amaru.learning.pareto_play import Fronts, ask
from amaru.readiness.pareto_markdown import markdown, verdict
from amaru.readiness.pareto_plots import draw
from amaru.routing.policies import make_policy
from amaru.simulation import play_kernels as p
from amaru.simulation.play import Game
from amaru.simulation.scenario_files import load_scenario
from amaru.simulation.world import World

WHO = (Player(name="thompson", role="learned", origin="untrained"), Player(name="rules", role="rule"))


@pytest.fixture(scope="module")
def fronts() -> Fronts:
    return ask(load_scenario("hidden-eval-v1"), WHO, weights=6, learn_steps=40, steps=60, seeds=range(4), seed=0)


def test_each_preference_is_asked_for_the_same_requests(fronts: Fronts) -> None:
    assert [len(front.points) for front in fronts.fronts] == [6, 6]
    assert fronts.requests > 1000


def test_who_wants_only_one_thing_gets_the_most_of_it(fronts: Fronts) -> None:
    points = {point.weights: point for point in fronts.fronts[0].points}
    cheap, fast = points[1.0, 0.0, 0.0], points[0.0, 1.0, 0.0]
    assert cheap.avg_cost_usd < fast.avg_cost_usd
    assert fast.avg_latency_ms < cheap.avg_latency_ms


def test_the_model_is_not_changed_by_being_asked() -> None:
    """A game that is asked on the way ends as one that is not."""
    scenario = load_scenario("hidden-eval-v1")

    def played(asking: bool) -> tuple[bytes, np.ndarray]:
        world = World(scenario, 1)
        policy = make_policy("thompson")
        game = Game(world, policy)
        totals, by_step = np.zeros((len(world.tenants), p.N_TALLY)), np.zeros((1, p.N_TALLY))
        for _ in range(20):
            chunk = world.chunk(1)
            if asking:
                other = game.asked(np.tile((0.0, 1.0, 0.0, 0.0), (len(world.tenants), 1)))
                other.play(chunk, np.zeros_like(totals), np.zeros_like(by_step))
            game.play(chunk, totals, by_step)
        return policy.state(), totals

    (state, totals), (state_asked, totals_asked) = played(False), played(True)
    assert state == state_asked
    np.testing.assert_array_equal(totals, totals_asked)


def test_the_same_question_has_the_same_answer(fronts: Fronts) -> None:
    again = ask(load_scenario("hidden-eval-v1"), WHO, weights=6, learn_steps=40, steps=60, seeds=range(4), seed=0)
    assert again == fronts


def test_ctrl_c_keeps_the_worlds_that_were_finished() -> None:
    def stop(done: int, _of: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    found = ask(
        load_scenario("hidden-eval-v1"),
        WHO,
        weights=3,
        learn_steps=5,
        steps=5,
        seeds=[7, 8, 9],
        seed=0,
        on_progress=stop,
    )
    assert found.worlds == (7,)


def test_a_given_reference_point_is_used_and_named(fronts: Fronts) -> None:
    found = ask(
        load_scenario("hidden-eval-v1"),
        WHO,
        weights=3,
        learn_steps=5,
        steps=5,
        seeds=[7],
        seed=0,
        reference=(9.0, 900.0, 0.1),
    )
    assert found.reference == (9.0, 900.0, 0.1)
    assert "$9, 900.0 ms, 10.00 % served" in markdown(found, command="c", machine="m")


def test_report_and_picture_show_every_preference(fronts: Fronts) -> None:
    text = markdown(fronts, command="amaru pareto", machine="m")
    assert text.count("1.00 / 0.00 / 0.00") == 2
    assert verdict(fronts) in text
    assert draw(fronts).startswith(b"\x89PNG")
