"""What a plan's offers share, and how they are steered, in words."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
import yaml
from levers_world import MakeLevers, make_levers

from amaru.config import Config, parse
from amaru.mesh.plan import Plan
from amaru.mesh.watched import steered_by_provider, steering_in_words, traits_of_plan
from amaru.routing.steering import UNSTEERED, Steering

__all__ = ["make_levers"]

STEERED: dict[str, Any] = {
    "drained": True,
    "at_once": 2.0,
    "look_s": 10.0,
    "weight": 0.5,
    "risk": 0.25,
    "concurrency": 3.0,
    "patience": 0.5,
    "first_token_ms": 400.0,
    "idle_ms": 900.0,
    "breaker_failures": 2,
    "cool_down_s": 7.0,
    "backoff": 4.0,
    "retry_ratio": 0.05,
    "non_stream": True,
    "adapted": True,
}
"""One value of each field that is not neutral."""


def test_an_offer_that_is_not_steered_needs_no_words() -> None:
    assert steering_in_words(UNSTEERED) == []


@pytest.mark.parametrize("field", UNSTEERED.__struct_fields__)
def test_whatever_is_steered_is_said(field: str) -> None:
    (words,) = steering_in_words(msgspec.structs.replace(UNSTEERED, **{field: STEERED[field]}))
    assert words


def test_figures_are_said_with_their_units() -> None:
    said = steering_in_words(Steering(weight=0.5, risk=0.25, concurrency=3.0, first_token_ms=400.0, idle_ms=900.0))
    assert said == [
        "weight 0.50", "risk 0.25", "at most 3 at once", "first token within 400 ms", "silence within 900 ms",
    ]  # fmt: skip


async def test_providers_are_said_with_their_resources_where_they_have_several(make_levers: MakeLevers) -> None:
    async with make_levers() as world:
        board = world.mesh.plan.board
        assert steered_by_provider(board) == {"a": (), "b": ()}
        world.levers.steer("a/sim", Steering(drained=True, weight=0.5))
        world.levers.steer("b/sim", Steering(weight=0.5))
        assert steered_by_provider(board) == {"a": ("drained",), "b": ("weight 0.50",)}
        more = {**world.settings["offers"][0], "resource": "other"}
        world.mesh.reload(world.config(offers=[*world.settings["offers"], more]))
        assert steered_by_provider(world.mesh.plan.board)["a"] == ("sim: drained", "sim: weight 0.50")


# ---- what offers share -----------------------------------------------------------------------------------------------


def config(base_urls: dict[str, str], **offer: Any) -> Config:
    settings = {
        "version": 1,
        "server": {"auth": "none"},
        "providers": {name: {"base_url": url, "labels": {"bridge": "axelar"}} for name, url in base_urls.items()},
        "offers": [
            {
                "provider": name,
                "resource": "sim",
                "price": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0},
                **offer,
            }
            for name in base_urls
        ],
    }
    return parse(yaml.safe_dump(settings), env={})


def labels_of(base_urls: dict[str, str], **offer: Any) -> list[tuple[str, ...]]:
    return [traits.labels for traits in traits_of_plan(Plan(config(base_urls, **offer), random.Random(1)))]


def test_offers_share_labels_hosts_regions_and_the_family_of_their_model() -> None:
    hosts = {"a": "https://models.example/v1", "b": "https://models.example/v2"}
    assert labels_of(hosts) == [("bridge:axelar", "host:models.example")] * 2
    assert labels_of(hosts, labels={"zone": "z1"}) == [("bridge:axelar", "zone:z1", "host:models.example")] * 2


@pytest.mark.parametrize("host", ["127.0.0.1:9000", "localhost:9000", "[::1]:9000", "127.1.2.3"])
def test_that_they_run_on_this_machine_says_nothing(host: str) -> None:
    assert labels_of({"a": f"http://{host}/v1"}) == [("bridge:axelar",)]
