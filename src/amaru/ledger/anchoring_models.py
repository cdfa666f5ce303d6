"""What ``scheduler.yaml`` may hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from amaru.files.fields import FilePath, Identifier, Section

Url = Annotated[str, Field(min_length=1, max_length=2048)]
Seconds = Annotated[float, Field(gt=0, le=600)]


class CadenceModel(Section):
    """How often."""

    interval_s: int | None = Field(default=None, ge=1, le=31_622_400, description="Whole seconds.", examples=[900])
    backoff_s: float | None = Field(
        default=None, gt=0, le=86_400, description="Base of the back-off; by default a 60th of the interval."
    )


class TargetModel(Section):
    """Where to."""

    kind: Literal["timestamp", "gpg", "post"] = Field(examples=["timestamp"])
    url: Url | None = Field(
        default=None, description="Of a timestamp or post.", examples=["https://tsa.example.org/tsr"]
    )
    roots: FilePath | None = Field(default=None, description="PEM that the authority must be vouched for by.")
    headers: dict[str, str] = Field(default={}, description="Sent with each request; {env:NAME}, {file:PATH}.")
    ca_file: FilePath | None = Field(default=None, description="PEM that https is trusted by beside the usual.")
    folder: FilePath | None = Field(default=None, description="Of a gpg: where the signed files go.")
    signer: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="Of a gpg: whose key; by default gpg's own choice."
    )
    home: FilePath | None = Field(default=None, description="Of a gpg: its home; by default the environment's.")
    limit_s: Seconds | None = Field(default=None, description="How long a try may take.")


class NamespaceModel(Section):
    """One log."""

    log: Url = Field(description="Its folder or URL.", examples=["amaru-data/ledger"])
    keys: tuple[Annotated[str, Field(max_length=1024)], ...] = Field(default=(), description="Its public keys (vkey).")
    trust: FilePath | None = Field(default=None, description="A file that holds them, such as ledger.keys/trust.")
    anchors: dict[Identifier, tuple[Identifier, ...]] = Field(
        min_length=1, description="Cadence → targets.", examples=["{fast: [authority]}"]
    )


class SchedulerFile(Section):
    """The file."""

    state: FilePath = Field(default="amaru-data/scheduler", description="Folder of what must not be forgotten.")
    host: Annotated[str, Field(min_length=1, max_length=255)] = Field(
        default="127.0.0.1", description="Where metrics and health are served."
    )
    port: int = Field(default=9091, ge=0, le=65535, description="Its port; 0 takes a free one.")
    cadences: dict[Identifier, CadenceModel] = Field(default={}, description="Beside fast, strong and cold.")
    targets: dict[Identifier, TargetModel] = Field(min_length=1)
    namespaces: dict[Identifier, NamespaceModel] = Field(min_length=1)
