"""Policies judged by a gateway's stored decisions: against a truth that is known, and only where that can be done."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest
from logged_samples import OFFERS, START, TRUTH, Gateway, changed, logged_store, write

from amaru.domain import Experience, Offer, Workload
from amaru.errors import AmaruError
from amaru.learning.dataset import build
from amaru.learning.dataset_schema import Filters, LoggedDecision
from amaru.learning.dataset_source import StoredRows
from amaru.learning.history import warm_start
from amaru.learning.logged import evaluate_logged
from amaru.learning.logged_report import LoggedReport
from amaru.learning.logged_scoring import Gathered, Scorer, Target
from amaru.learning.off_policy import SupportError
from amaru.routing.knobs import Knobs
from amaru.routing.learned import BeliefPolicy
from amaru.routing.policies import LEARNED, POLICIES, make_policy
from amaru.routing.ranking import unpack
from amaru.routing.score_kernels import THOMPSON, utility


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return logged_store(tmp_path_factory.mktemp("gateway") / "amaru.db", 3_000)


@pytest.fixture(scope="module")
def rows(store: Path) -> list[LoggedDecision]:
    return list(StoredRows(store))


def boards(store: Path) -> dict[str, tuple[object, ...]]:
    source = StoredRows(store)
    for _ in source:
        break
    return source.boards  # type: ignore[return-value]  # of offers


def expected_worth(row: LoggedDecision, offer: str) -> float:
    """Of a first attempt at ``offer``, from the truth of the samples: served or not, and log-normal latency."""
    failing, slow = TRUTH[offer]
    place = row.offers.index(offer)
    w = row.weights
    # The latency enters as its reciprocal, whose mean of a log-normal is that of another one.
    mean_ms = row.posted_ms[place] * slow * math.exp(-(0.3**2) / 2.0)
    four = (w.price, w.latency, w.reputation, w.availability)
    best = min(row.unit_price_usd), min(row.posted_ms)
    return (1.0 - failing) * utility(four, *best, row.unit_price_usd[place], mean_ms, row.reputation[place])


def value_of(rows: list[LoggedDecision], target: Target, store: Path) -> float:
    """What the target is worth on average in the contexts that were logged."""
    scorer = Scorer(target, boards(store))
    return float(
        np.mean(
            [
                sum(
                    share * expected_worth(row, offer)
                    for share, offer in zip(scorer.shares(row), row.offers, strict=True)
                )
                for row in rows
            ]
        )
    )


def test_verdicts_agree_with_the_truth(store: Path, rows: list[LoggedDecision]) -> None:
    names = ["rules", "rules_classic", "cheapest", "fastest", "random"]
    found = evaluate_logged(store, names)
    logged = np.mean([row.utility for row in rows])
    assert found.decisions == len(rows) == 3_000
    for verdict in found.verdicts:
        truth = value_of(rows, Target.named(verdict.target), store)
        assert verdict.found is not None
        for estimate in (verdict.found.dr, verdict.found.snips, verdict.found.ips):
            assert estimate.interval is not None
            low, high = estimate.interval.low, estimate.interval.high
            assert low <= truth <= high, (verdict.target, truth, estimate)
        if verdict.words != "cannot say":
            assert verdict.words == ("better" if truth > logged else "worse")
    words = {verdict.target: verdict.words for verdict in found.verdicts}
    assert words["rules"] == "better"  # than the same rules with a third of the choices drawn
    assert words["cheapest"] == words["random"] == "worse"


def test_a_data_set_gives_the_same_verdicts_as_the_store_it_was_made_of(store: Path, tmp_path: Path) -> None:
    build(store, tmp_path / "out")
    from_store = evaluate_logged(store, ["cheapest", "thompson"], seed=3)
    from_set = evaluate_logged(tmp_path / "out", ["cheapest", "thompson"], seed=3)
    assert from_set.verdicts == from_store.verdicts


@pytest.mark.parametrize("name", list(POLICIES))
def test_a_stored_decision_scored_again_is_what_the_policy_did(name: str, tmp_path: Path) -> None:
    """The propensity is the floor's share and the policy's: scored again from the row, the same policy agrees."""
    gateway = Gateway(policy=name, exploration=0.2)
    told, again = [], []
    path = write(tmp_path / "amaru.db", gateway, [gateway.ask() for _ in range(40)])  # untrained: nobody calls learn
    scorer = Scorer(Target(name, make_policy(name)), boards(path))
    for row in StoredRows(path):
        share = scorer.shares(row)
        assert share.sum() == pytest.approx(1.0)
        again.append(0.2 / len(row.offers) + 0.8 * float(share[row.offers.index(row.first.offer)]))
        told.append(row.propensity)
    # The figures are stored with seven digits, so a tie in them may be none in what decided, and the reverse.
    assert np.mean(np.isclose(told, again, atol=0.02)) >= 0.9


@pytest.mark.parametrize("name", LEARNED)
def test_what_was_learned_counts_when_a_decision_is_scored_again(name: str, store: Path, tmp_path: Path) -> None:
    build(store, tmp_path / "out")
    gateway, again = Gateway(policy=name, exploration=0.2), make_policy(name)
    warm_start(again, tmp_path / "out")
    gateway.policy.restore(again.state())
    path = write(tmp_path / "amaru.db", gateway, [gateway.ask() for _ in range(60)])
    scorer = Scorer(Target(name, again, learns_along=True), boards(path))  # by the decision's own time
    off = [
        0.2 / len(row.offers) + 0.8 * float(scorer.shares(row)[row.offers.index(row.first.offer)]) - row.propensity
        for row in StoredRows(path)
    ]
    assert np.mean(np.abs(off) < 0.03) >= 0.9
    assert len({row.first.offer for row in StoredRows(path) if not row.explored}) > 1 or name == "qlearning"


def test_every_learned_policy_can_be_judged_as_it_would_have_learned_along(store: Path) -> None:
    found = evaluate_logged(store, list(LEARNED))
    for verdict in found.verdicts:
        assert verdict.learns_along
        assert verdict.words == "better", verdict
    assert "Learned along" in found.markdown()


def test_learning_along_never_sees_what_had_not_ended(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first decision is judged by an untrained policy, and each other one by what ended before it."""
    seen: list[float] = []
    known: list[int] = []

    class Watched(BeliefPolicy):
        def learn(self, workload: Workload, offer: Offer, experience: Experience) -> None:
            seen.append(experience.at)
            super().learn(workload, offer, experience)

    class Watching(Gathered):
        def take(self, row: LoggedDecision) -> None:
            known.append(len(seen))
            assert all(at <= row.at for at in seen[-100:])
            super().take(row)

    monkeypatch.setattr("amaru.learning.logged.Gathered", Watching)
    watched = Watched("thompson", THOMPSON, Knobs())
    evaluate_logged(store, [Target("watched", watched, learns_along=True)])
    assert known[0] == 0
    assert known[-1] > 2_900
    assert seen == sorted(seen)


def test_a_policy_as_it_is_does_not_learn_from_what_it_is_judged_by(store: Path) -> None:
    policy = make_policy("hybrid")
    before = policy.state()
    found = evaluate_logged(store, [Target("mine", policy)])
    assert policy.state() == before
    assert [verdict.target for verdict in found.verdicts] == ["mine"]
    assert "Learned along" not in found.markdown()


# ---- what cannot be judged --------------------------------------------------------------------------------------


def test_without_exploration_another_policy_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = logged_store(tmp_path / "amaru.db", 500, exploration=0.0)
    with pytest.raises(SupportError, match=r"cheapest: .*routing\.exploration"):
        evaluate_logged(path, ["cheapest"])
    found = evaluate_logged(path, ["cheapest", "rules"])
    refused, judged = found.verdicts
    assert refused.found is None
    assert refused.words == "refused"
    assert "could not have been taken" in str(refused.refused)
    assert judged.found is not None
    assert judged.found.support.share == 1.0
    assert "**cheapest** cannot be judged" in found.markdown()


def test_too_few_decisions_are_refused(tmp_path: Path) -> None:
    path = logged_store(tmp_path / "amaru.db", 40, exploration=0.1)
    with pytest.raises(SupportError, match="too few of the 40 logged decisions"):
        evaluate_logged(path, ["cheapest"])


def test_nothing_to_judge_by_is_told_once(tmp_path: Path) -> None:
    gateway = Gateway()
    path = write(tmp_path / "amaru.db", gateway, [gateway.recommend() for _ in range(5)])
    with pytest.raises(SupportError, match=r"(?s)no decision with an outcome.*Left out: 5 decisions") as refusal:
        evaluate_logged(path, ["rules", "cheapest"])
    assert "rules" not in str(refusal.value)


def test_damaged_rows_are_told_also_of_a_data_set(tmp_path: Path) -> None:
    gateway = Gateway()
    records = [gateway.ask() for _ in range(600)]
    records[5] = changed(records[5], ranking=b"damaged")
    path = write(tmp_path / "amaru.db", gateway, records)
    build(path, tmp_path / "out")
    for source in (path, tmp_path / "out"):
        found = evaluate_logged(source, ["random"])
        assert found.decisions == 599
        assert [left.decisions for left in found.left_out] == [1]
        assert f"{5:032x}" in found.markdown()


def test_first_attempts_that_went_elsewhere_are_left_out_and_told(tmp_path: Path) -> None:
    gateway = Gateway()
    records = [gateway.ask() for _ in range(800)]
    rng, moved = random.Random(5), 0
    for n, record in enumerate(records):
        if rng.random() < 0.1:
            second = OFFERS[unpack(record.ranking).order[1]]
            first = changed(record.attempts[0], offer=second.id, provider=second.provider)  # type: ignore[arg-type]
            records[n] = changed(record, attempts=(first, *record.attempts[1:]))
            moved += 1
    found = evaluate_logged(write(tmp_path / "amaru.db", gateway, records), ["random"])
    assert found.decisions == 800 - moved
    assert [left.decisions for left in found.left_out] == [moved]
    assert f"Left out: {moved} decisions" in found.markdown()


def test_wrong_propensities_are_noticed(tmp_path: Path) -> None:
    gateway = Gateway()
    records = [changed(record, propensity=record.propensity / 2.0) for record in (gateway.ask() for _ in range(600))]
    found = evaluate_logged(write(tmp_path / "amaru.db", gateway, records), ["random"])
    assert "some propensities are not what was logged" in found.markdown()


def test_only_the_newest_are_judged_where_there_are_too_many(
    store: Path, rows: list[LoggedDecision], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amaru.learning.logged_scoring.CHUNK", 500)
    found = evaluate_logged(store, ["random"], most=1_000)
    assert found.decisions == 1_000
    assert [left.decisions for left in found.left_out] == [2_000]


def test_filters_and_names(store: Path) -> None:
    found = evaluate_logged(store, ["random"], filters=Filters(tenant="t1", since=START + 100.0))
    assert found.decisions == 1_400
    with pytest.raises(AmaruError, match="no policy 'best'; choose one of rules"):
        evaluate_logged(store, ["best"])
    with pytest.raises(AmaruError, match="at least one policy"):
        evaluate_logged(store, [])


def test_the_report_is_whole_as_json(store: Path) -> None:
    found = evaluate_logged(store, ["rules", "cheapest"])
    assert msgspec.json.decode(found.json(), type=LoggedReport) == found
    plain = json.loads(found.json())
    assert plain["schema"] == "amaru-logged-1"
    assert plain["verdicts"][0]["found"]["dr"]["interval"]["low"] < plain["verdicts"][0]["found"]["dr"]["value"]
