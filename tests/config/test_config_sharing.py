"""``sharing``: where machines meet, and every mistake in it named with its line."""

from __future__ import annotations

import pytest

from amaru.config import effective, needs_restart, parse
from amaru.errors import ConfigError


def test_without_a_word_about_it_nothing_is_shared() -> None:
    sharing = parse("version: 1", "amaru.yaml", {}).sharing
    assert (sharing.redis_url, sharing.name, sharing.prefix) == (None, None, "amaru")


def test_machines_of_one_file_are_told_apart_by_the_environment_and_its_password_is_shown_nowhere() -> None:
    text = 'sharing: {redis_url: "rediss://amaru:{env:RD}@cache:6379/0", prefix: blue}'
    config = parse(text, "amaru.yaml", {"RD": "hunter2/hunter2", "AMARU_SHARING__NAME": "pod-7"})
    assert config.sharing.redis_url == "rediss://amaru:hunter2%2Fhunter2@cache:6379/0"
    assert (config.sharing.name, config.sharing.prefix) == ("pod-7", "blue")
    assert effective(config)["sharing"]["redis_url"] == "rediss://cache:6379/0"
    assert "hunter2" not in repr(config) + str(effective(config))


def test_a_password_among_the_parameters_is_shown_nowhere() -> None:
    text = """
sharing: {redis_url: "redis://h/0?password={env:RD}"}
accounts: {redis_url: "redis://h/0?password={env:RD}"}
"""
    config = parse(text, "amaru.yaml", {"RD": "hunter2"})
    assert config.sharing.redis_url == "redis://h/0?password=hunter2"
    assert "hunter2" not in repr(config) + str(effective(config))


def test_it_is_read_when_the_server_starts() -> None:
    old, new = (parse(f"sharing: {{name: {name}}}", "amaru.yaml", {}) for name in ("a", "b"))
    assert needs_restart(old, new) == ("sharing.name",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{redis_url: "redis://:hunter2@h"}', "sharing.redis_url: passwords do not stand in this file"),
        ('{redis_url: "redis://h?password=hunter2"}', "sharing.redis_url: passwords do not stand in this file"),
        ('{redis_url: "http://h"}', "sharing.redis_url: not a Redis URL"),
        ('{redis_url: "redis://h:port"}', "sharing.redis_url: not a Redis URL"),
        ('{redis_url: "redis://:{env:NONE}@h"}', "sharing.redis_url: environment variable NONE is not set"),
        ("{name: a b}", "sharing.name: "),
        ('{prefix: ""}', "sharing.prefix: "),
        ("{url: x}", "sharing.url: unknown field"),
    ],
)
def test_mistakes_are_named_with_their_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(f"sharing: {text}", "amaru.yaml", {})
    (found,) = refused.value.problems
    assert found.startswith(f"amaru.yaml:1: {said}")
    assert "hunter2" not in found
