"""`routing.policy` and what goes with it: every policy that there is, and every mistake named."""

from __future__ import annotations

import pytest

from amaru.config import json_schema, parse
from amaru.errors import ConfigError
from amaru.routing.policies import LEARNED, POLICIES

START = "version: 1\nrouting:\n"


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_that_there_is_can_be_named(name: str) -> None:
    assert parse(f"{START}  policy: {name}\n", env={}).routing.policy == name


def test_the_schema_for_editors_names_them_all() -> None:
    assert json_schema()["$defs"]["RoutingSettings"]["properties"]["policy"]["enum"] == list(POLICIES)


@pytest.mark.parametrize("name", LEARNED)
def test_settings_and_artifacts_are_for_those_that_learn(name: str) -> None:
    routing = parse(f"{START}  policy: {name}\n  policy_settings: {{fast_s: 30, replays: 2}}\n", env={}).routing
    assert routing.policy_settings == {"fast_s": 30, "replays": 2}
    routing = parse(f"{START}  policy: {name}\n  policy_artifact: s3://models/amaru@v3\n", env={}).routing
    assert routing.policy_artifact == "s3://models/amaru@v3"


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("policy: tompson", "amaru.yaml:3: routing.policy: not one of rules, "),
        ("policy: tompson", 'did you mean "thompson"'),
        ("policy: [rules]", "amaru.yaml:3: routing.policy: "),
        ("policy: hybrid\n  policy_settings: {speed: 3}", "amaru.yaml:4: routing.policy_settings: "),
        ("policy: hybrid\n  policy_settings: {speed: 3}", "speed"),
        ("policy: hybrid\n  policy_settings: {epsilon: 3}", "epsilon"),
        ("policy: hybrid\n  policy_settings: {epsilon: much}", "routing.policy_settings.epsilon"),
        ("policy: rules\n  policy_artifact: s3://m/a@v1", "amaru.yaml:4: routing.policy_artifact: policy rules learns"),
        ("policy: rules\n  policy_settings: {epsilon: 0.1}", "routing.policy_settings: policy rules has none"),
        ("policy: hybrid\n  policy_artifact: s3://m/a@first", "what follows the last @ is no version"),
        ("policy: hybrid\n  policy_artifact: s3://m/a\n  policy_settings: {fast_s: 3}", "brings the settings"),
        ("policy: hybrid\n  policy_artifact: s3://user:hunter2@m/a@v1", "holds a user or a password"),
    ],
)
def test_each_mistake_is_named(lines: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(f"{START}  {lines}\n", env={})
    told = "\n".join(refused.value.problems)
    assert problem in told
    assert "hunter2" not in told
