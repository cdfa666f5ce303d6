"""The shape of ``ledger``: what leaves a receipt, and where the log of them lies."""

from __future__ import annotations

from pydantic import Field

from amaru.config.fields import RESTART
from amaru.files.fields import FilePath, Section


class LedgerSettings(Section):
    """The tamper-evident log of what amaru decided and did."""

    enabled: bool = Field(
        default=False,
        description="true: the gateway logs decisions with their outcomes, healings and interventions.",
        json_schema_extra=RESTART,
    )
    url: FilePath | None = Field(
        default=None,
        description="Folder of the log, relative to the configuration file, or a URL that fsspec knows (s3://…, "
        "gs://…); left out: `ledger` beside the database.",
        json_schema_extra=RESTART,
    )
    decisions: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of the decisions that is logged, drawn by their ids. Healings and interventions always are.",
    )
    prompt_kib: float = Field(
        default=64,
        ge=0,
        le=65_536,
        description="The receipt of a decision holds a salted HMAC of a prompt of up to so many KiB, and none of a "
        "longer one: it is computed before the answer goes out. 0: never. The prompt's text is never logged.",
    )
    queue_mib: float = Field(
        default=16,
        ge=1,
        le=4096,
        description="Receipts that wait to be logged, in MiB on disk; when it is full, receipts are dropped, counted, "
        "and the gap is logged.",
        json_schema_extra=RESTART,
    )
    retention_days: float | None = Field(
        default=None,
        gt=0,
        le=36_500,
        description="The texts of older receipts are erased, 256 at a time, by prunings that are logged; their hashes "
        "stay, and all else still verifies. Left out: none is.",
    )
    public: bool = Field(
        default=False,
        description="true: whoever reaches the port may read the log at /ledger/…; false: operators only.",
    )
