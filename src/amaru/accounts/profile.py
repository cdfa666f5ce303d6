"""What a tenant prefers and may use, in the same words in amaru.yaml, over the admin API and in the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from amaru.accounts.money import nusd_of_amount
from amaru.domain import Limits, Rescue, Tenant, Weights
from amaru.errors import AccountError
from amaru.files.fields import Name, Section
from amaru.files.problems import Problem, dotted
from amaru.files.settings import LimitSettings, WeightSettings
from amaru.files.translate import validate

WhenStoreGone = Literal["closed", "open"]


def _usd(amount: Any) -> str:  # Any: raw YAML or JSON
    try:
        nusd_of_amount(amount)
    except ValueError as error:
        raise PydanticCustomError("amount", "{said}", {"said": str(error)}) from None
    return f"{Decimal(str(amount)):f}"


Usd = Annotated[
    str,
    BeforeValidator(_usd),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^\d+(\.\d{1,9})?$"}]}),
]
"""US dollars as people write them, with up to nine decimals; kept as text, since no double holds ten cents."""


class TenantProfile(Section):
    """What a tenant prefers, what it never accepts, and what it may use."""

    weights: WeightSettings = Field(default=WeightSettings(), description="What it prefers.")
    limits: LimitSettings = Field(default=LimitSettings(), description="What it never accepts.")
    resources: tuple[Name, ...] | None = Field(
        default=None, min_length=1, description="Resources, aliases and offers that it may use; left out: all."
    )
    rescue: Rescue = Field(
        default=Rescue.JOIN,
        description="What its streams prefer where one may break. join: hand on each event as it comes, and join the "
        "break where that can be done exactly. hold: hold the answer back until it is whole.",
    )
    when_store_gone: WhenStoreGone | None = Field(
        default=None, description="In place of accounts.when_store_gone, for this tenant."
    )
    open_usd: Usd | None = Field(default=None, description="In place of accounts.open_usd, for this tenant.")

    def tenant(self, id: str, key_hashes: Iterable[str] = ()) -> Tenant:
        """The tenant of that name, as the router knows it."""
        return Tenant(
            id=id,
            weights=Weights(**self.weights.model_dump()),
            limits=Limits(**self.limits.model_dump(include=set(LimitSettings.model_fields))),
            key_hashes=tuple(key_hashes),
            resources=self.resources,
            rescue=self.rescue,
            serves_without_store=None if self.when_store_gone is None else self.when_store_gone == "open",
            open_nusd=None if self.open_usd is None else nusd_of_amount(self.open_usd),
        )


def weight_problems(weights: WeightSettings) -> Iterable[Problem]:
    """What is wrong with weights that are each fine."""
    if not any((weights.price, weights.latency, weights.reputation, weights.availability)):
        yield Problem(("weights",), "every weight is 0", "make at least one positive")


def profile_of(settings: Mapping[str, Any]) -> TenantProfile:  # Any: raw JSON
    """The profile in plain values. Raises AccountError, which names every mistake with its field."""
    profile, _, problems = validate(TenantProfile, dict(settings))
    if profile is not None:
        problems += weight_problems(profile.weights)
    if problems or profile is None:
        raise AccountError("; ".join(f"{dotted(one.loc)}: {one.what} — {one.remedy}" for one in problems))
    return profile
