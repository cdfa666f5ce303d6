"""What only the models of ``amaru.yaml`` are made of; what any file's are, stands in ``amaru.files``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.config import JsonDict

from amaru.files.fields import FilePath, Section

RESTART: JsonDict = {"x-amaru-restart": True}
"""Marks a field that a reload cannot change."""

EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", examples=["OPENAI_API_KEY"])]


class KeyReference(Section):
    """Where a key that callers present comes from. Exactly one of the three."""

    sha256: Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{64}$")] | None = Field(
        default=None, description="SHA-256 of the key in hex; the key itself is in no file. `amaru init` writes one."
    )
    env: EnvName | None = Field(default=None, description="Environment variable that holds the key.")
    file: FilePath | None = Field(
        default=None, description="File that holds the key, relative to the configuration file."
    )
