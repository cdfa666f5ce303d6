"""A provider's other addresses: each with its own headers over the provider's, and secrets no more shown than ever."""

from __future__ import annotations

import pytest

from amaru.config import effective, parse, warnings
from amaru.errors import ConfigError

SECRET = "sk-proj-Zq81LmVt93xKcYb27"
CONFIG = """\
version: 1
server: {auth: none}
providers:
  p:
    base_url: https://p.example/v1
    key_env: P_KEY
    headers: {X-Team: blue, X-Version: "1"}
    alternates:
      - base_url: https://p.example/v2/
        headers: {x-version: "2", X-Api-Key: "{env:OTHER}"}
      - {base_url: "http://q.example/v1"}
offers:
  - {provider: p, resource: m, price: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}
"""
ENV = {"P_KEY": SECRET, "OTHER": SECRET + "-other"}


def test_headers_of_an_alternate_lie_over_the_providers_own() -> None:
    config = parse(CONFIG, env=ENV)
    first, second = config.providers()["p"].alternates
    assert first.base_url == "https://p.example/v2"
    assert {name: value.get_secret_value() for name, value in first.headers.items()} == {
        "x-team": "blue", "x-version": "2", "x-api-key": SECRET + "-other",
    }  # fmt: skip
    assert {name: value.get_secret_value() for name, value in second.headers.items()} == {
        "x-team": "blue", "x-version": "1",
    }  # fmt: skip
    assert SECRET not in repr(config)
    assert SECRET not in repr(config.providers())
    shown = effective(config)
    assert SECRET not in str(shown)
    assert shown["providers"]["p"]["alternates"][0] == {
        "base_url": "https://p.example/v2",
        "headers": {"x-team": "set", "x-version": "set", "x-api-key": "set"},
    }
    assert any(line.startswith("providers.p.alternates[1].base_url: its key travels") for line in warnings(config))


@pytest.mark.parametrize(
    ("old", "new", "at"),
    [
        ("https://p.example/v2/", "p.example/v2", "providers.p.alternates[0].base_url: not a URL"),
        ("https://p.example/v2/", "https://me:pw@p.example/v2", "providers.p.alternates[0].base_url: holds a user"),
        ('"{env:OTHER}"', SECRET, "providers.p.alternates[0].headers.X-Api-Key: keys do not stand"),
        ('"{env:OTHER}"', '"{env:NONE}"', "providers.p.alternates[0].headers.X-Api-Key: environment variable NONE"),
        ("X-Api-Key:", "Host:", "providers.p.alternates[0].headers.Host: amaru writes"),
    ],
)
def test_every_mistake_is_named_with_its_place(old: str, new: str, at: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(CONFIG.replace(old, new), env=ENV)
    assert at in str(caught.value)
    assert SECRET not in str(caught.value)
