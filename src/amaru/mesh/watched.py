"""What a plan's offers share, and how they are steered, for those who watch."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import msgspec

from amaru.health.pattern_types import Traits
from amaru.health.sense import traits_of
from amaru.mesh.plan import Plan
from amaru.routing.board import Board
from amaru.routing.steering import UNSTEERED, Steering


def traits_of_plan(plan: Plan) -> list[Traits]:
    """What each offer may share with others: regions, the model's family, the operator's labels, and its host."""
    labels = plan.config.labels()
    found = []
    for offer in plan.board.offers:
        traits = traits_of(offer, labels.get(offer.id, {}))
        host = urlsplit(plan.settings[offer.provider].base_url).hostname or ""
        if not _is_this_machine(host):  # which all that run here share, and which says nothing
            traits = msgspec.structs.replace(traits, labels=(*traits.labels, f"host:{host}"))
        found.append(traits)
    return found


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def steered_by_provider(board: Board) -> dict[str, tuple[str, ...]]:
    """How each provider's offers are steered, in words; ``drained`` stands alone where all of them are."""
    found: dict[str, tuple[str, ...]] = {}
    for provider, rows in board.rows_of_provider.items():
        steerings = [(board.offers[row].resource, board.steering(row)) for row in rows]
        if all(steering.drained for _, steering in steerings):
            found[provider] = ("drained",)
            continue
        said = [(resource, words) for resource, steering in steerings for words in steering_in_words(steering)]
        found[provider] = tuple(
            dict.fromkeys(words if len(steerings) == 1 else f"{resource}: {words}" for resource, words in said)
        )
    return found


def steering_in_words(steering: Steering) -> list[str]:
    """What a steering changes; empty: nothing."""
    if steering == UNSTEERED:
        return []
    said = ["drained"] if steering.drained else []
    if steering.weight < 1.0:
        said.append(f"weight {steering.weight:.2f}")
    if steering.risk > 0.0:
        said.append(f"risk {steering.risk:.2f}")
    if steering.at_once is not None:
        said.append(f"{steering.at_once:.0f} at once, and what no other can take")
    if steering.look_s is not None:
        said.append(f"looked at after {steering.look_s:.0f} s")
    if steering.concurrency is not None:
        said.append(f"at most {steering.concurrency:.0f} at once")
    if steering.patience < 1.0:
        said.append(f"waits cut to {steering.patience:.0%} of what was learned")
    if steering.first_token_ms is not None:
        said.append(f"first token within {steering.first_token_ms:.0f} ms")
    if steering.idle_ms is not None:
        said.append(f"silence within {steering.idle_ms:.0f} ms")
    if steering.breaker_failures is not None or steering.cool_down_s is not None:
        said.append("a stricter breaker")
    if steering.backoff > 1.0:
        said.append(f"{steering.backoff:g} times the back-off")
    if steering.retry_ratio is not None:
        said.append(f"second tries for {steering.retry_ratio:.0%} of its requests")
    if steering.non_stream:
        said.append("asked whole")
    if steering.adapted:
        said.append("answers adapted")
    return said
