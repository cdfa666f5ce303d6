"""What the model of any file is made of: the base of its sections, and the types of its values."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MISTAKE = "amaru_mistake"
"""Error type of our own validators; its context holds ``problem`` and ``remedy``, and never the value."""


def mistake(problem: str, remedy: str) -> PydanticCustomError:
    """An error for a validator to raise, in the two halves that every message of ours has."""
    return PydanticCustomError(MISTAKE, "{problem}", {"problem": problem, "remedy": remedy})


Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Name = Annotated[str, Field(pattern=r"^[!-~](?:[ -~]{0,198}[!-~])?$")]
Region = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", examples=["eu-west"])]
FilePath = Annotated[str, Field(min_length=1, max_length=4096)]
Milliseconds = Annotated[float, Field(gt=0, le=3_600_000)]
UsdPerMtok = Annotated[float, Field(ge=0, le=1_000_000)]
Weight = Annotated[float, Field(ge=0, le=1_000_000)]


class Section(BaseModel):
    """Base of every part of the file: unknown fields are refused, and values cannot change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True, validate_default=True
    )

    @model_validator(mode="before")
    @classmethod
    def _tidy(cls, data: Any) -> Any:  # Any: raw YAML
        """An empty value is no value: ``retry_budget:`` with every line below it commented out means the defaults.

        And ``true`` is no number: pydantic would read it as 1.
        """
        if not isinstance(data, dict):
            return data
        flags = {name for name, info in cls.model_fields.items() if info.annotation is bool}
        return {
            name: str(value).lower() if isinstance(value, bool) and name not in flags else value
            for name, value in data.items()
            if value is not None
        }
