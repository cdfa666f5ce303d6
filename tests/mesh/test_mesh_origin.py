"""Where a policy's state comes from: carried on, kept, an artifact, or nothing; never a start that fails."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from amaru.config import Config, parse
from amaru.domain import Capability, Experience, Kind, Offer, Workload
from amaru.mesh.learner import Used
from amaru.mesh.origin import Origin, used_of
from amaru.routing.policies import make_policy
from amaru.storage import PolicyState

PRICE = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}
WORKLOAD = Workload(tenant="team", kind=Kind.CHAT, resource="m", needs=Capability.STREAM)


def config(**routing: Any) -> Config:
    return parse(
        yaml.safe_dump(
            {
                "version": 1,
                "server": {"auth": "none"},
                "providers": {"a": {"base_url": "http://127.0.0.1:1/v1"}},
                "offers": [{"provider": "a", "resource": "m", "price": PRICE}],
                "routing": {"policy": "thompson", **routing},
            }
        ),
        env={},
    )  # fmt: skip


OFFER: Offer = config().offers()[0]


def trained(outcomes: int = 5, name: str = "thompson", **settings: float) -> bytes:
    policy = make_policy(name, **settings)
    for at in range(outcomes):
        policy.learn(WORKLOAD, OFFER, Experience(at=float(at), ok=at % 2 == 0, latency_ms=100.0))
    return policy.state()


def stored(state: bytes, outcomes: int = 5, **fields: Any) -> PolicyState:
    return PolicyState(**{"policy": "thompson", "at": 0.0, "state": state, "outcomes": outcomes, **fields})


def test_the_kept_state_is_taken_up() -> None:
    used = used_of(config(), Origin(stored=stored(trained())), None)
    assert (used.policy.state(), used.outcomes, used.artifact) == (trained(), 5, "")


def test_what_this_process_knows_goes_before_what_the_store_kept() -> None:
    current = used_of(config(), Origin(stored=stored(trained(7), 7)), None)
    used = used_of(config(), Origin(stored=stored(trained(5))), current)
    assert (used.policy.state(), used.outcomes) == (trained(7), 7)
    assert used.policy is not current.policy


@pytest.mark.parametrize(
    "kept",
    [
        stored(b"", 5),
        stored(b"no state at all", 5),
        stored(trained()[:-3], 5),
        stored(trained(name="hybrid"), 5),
        stored(trained(), 5, settings={"fast_s": 30.0}),
        stored(trained(), 5, artifact="v1/abc"),
    ],
)
def test_what_cannot_be_used_is_passed_over_and_the_policy_begins_anew(kept: PolicyState) -> None:
    used = used_of(config(), Origin(stored=kept), None)
    assert (used.policy.state(), used.outcomes, used.policy.name) == (make_policy("thompson").state(), 0, "thompson")


def test_settings_reach_the_policy_and_a_change_of_them_begins_anew() -> None:
    current = used_of(config(), Origin(stored=stored(trained())), None)
    used = used_of(config(policy_settings={"fast_s": 30, "replays": 2}), Origin(), current)
    assert used.policy.state() == make_policy("thompson", fast_s=30.0, replays=2).state()
    again = used_of(config(policy_settings={"fast_s": 30, "replays": 2}), Origin(), used)
    assert again.policy.state() == used.policy.state()


def test_live_state_goes_before_the_artifact_only_on_top_of_that_very_version() -> None:
    artifact = trained(20)
    live = stored(trained(5), 5, artifact="v3/abc")
    same = used_of(config(), Origin(version="v3/abc", artifact=artifact, stored=live), None)
    assert (same.policy.state(), same.outcomes, same.artifact) == (trained(5), 5, "v3/abc")
    newer = used_of(config(), Origin(version="v4/def", artifact=artifact, stored=live), None)
    assert (newer.policy.state(), newer.outcomes, newer.artifact) == (artifact, 0, "v4/def")
    swapped = used_of(config(), Origin(version="v4/def", artifact=artifact), same)
    assert (swapped.policy.state(), swapped.outcomes, swapped.artifact) == (artifact, 0, "v4/def")


def test_a_newer_artifact_with_other_settings_is_named_as_what_replaces_the_live_state(
    caplog: pytest.LogCaptureFixture,
) -> None:
    live = stored(trained(5), 5, artifact="v3/abc", settings={"fast_s": 30.0})
    used_of(config(), Origin(version="v4/def", artifact=trained(9), knobs={"fast_s": 40.0}, stored=live), None)
    assert "it was learned on top of artifact v3/abc, not of artifact v4/def" in caplog.text


def test_an_artifact_brings_its_own_settings() -> None:
    origin = Origin(version="v1/a", artifact=trained(3, fast_s=40.0), knobs={"fast_s": 40.0})
    used = used_of(config(), origin, None)
    assert used.settings == {"fast_s": 40.0}
    kept = stored(trained(4, fast_s=40.0), 4, artifact="v1/a", settings={"fast_s": 40.0})
    again = used_of(config(), Origin(version="v1/a", artifact=b"", knobs={"fast_s": 40.0}, stored=kept), None)
    assert again.outcomes == 4


def test_without_the_artifact_the_kept_state_serves_or_the_policy_begins_untrained() -> None:
    live = stored(trained(5), 5, artifact="v3/abc")
    used = used_of(config(), Origin(failure="the bucket is away", stored=live), None)
    assert (used.policy.state(), used.artifact) == (trained(5), "v3/abc")
    bare = used_of(config(), Origin(failure="the bucket is away"), None)
    assert (bare.policy.state(), bare.outcomes) == (make_policy("thompson").state(), 0)


def test_a_reload_whose_artifact_cannot_be_loaded_keeps_the_policy() -> None:
    current = Used(make_policy("hybrid"), outcomes=3)
    current.policy.restore(trained(3, "hybrid"))
    used = used_of(config(), Origin(failure="the bucket is away"), current)
    assert (used.policy.name, used.policy.state(), used.outcomes) == ("hybrid", trained(3, "hybrid"), 3)


def test_a_damaged_artifact_does_not_keep_amaru_from_serving() -> None:
    used = used_of(config(), Origin(version="v1/a", artifact=b"damaged"), None)
    assert (used.policy.state(), used.artifact) == (make_policy("thompson").state(), "")


def test_rules_learn_nothing_and_take_no_state() -> None:
    used = used_of(config(policy="rules"), Origin(stored=stored(trained())), None)
    assert (used.policy.name, used.outcomes) == ("rules", 0)
