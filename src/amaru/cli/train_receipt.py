"""The receipt of a training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from amaru.cli.ledger_option import record

if TYPE_CHECKING:
    from amaru.learning.checkpoints import TrainingSettings
    from amaru.learning.pace import Trained
    from amaru.ledger.receipts import Training
    from amaru.ledger.remembrancer import Entry

SWARM_FILE = "swarm_final.json"
METRIC = "mean utility of the best agent lately"


def record_training(ledger: str | None, settings: TrainingSettings, done: Trained, wanted: int) -> Entry | None:
    """Have a run leave a receipt with the digests of its files, where there is a ledger; raises as ``record``."""

    def receipt(at: str, by: str) -> Training:
        from amaru.ledger.receipts import Training
        from amaru.ledger.remembrancer import evidence_of

        evidence = tuple(evidence_of(path) for path in done.files)
        return Training(
            at=at,
            component=settings.policy,
            digest=next((one.digest for one in evidence if one.name == SWARM_FILE), ""),
            evidence=evidence,
            by=by,
            note="" if done.complete else f"stopped after episode {done.episode} of {wanted}",
            policy=settings.policy,
            worlds=settings.worlds[-200:],
            seed=settings.seed,
            episodes=done.episode,
            score=done.score if math.isfinite(done.score) else None,
            metric=METRIC,
        )

    return record(ledger, receipt)
