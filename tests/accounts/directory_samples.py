"""What tests of the directory share."""

from __future__ import annotations

from amaru.accounts.allowances import Allowance, Metric, Scope
from amaru.accounts.directory_base import FromFile
from amaru.accounts.periods import Period
from amaru.domain import Tenant

NOW = 1_700_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def budget(scope: Scope, subject: str, **changes: object) -> Allowance:
    values = {"metric": Metric.USD, "period": Period.MONTH, "amount": 10**11, "alerts": (0.5, 1.0)} | changes
    return Allowance(scope=scope, subject=subject, **values)


FILE = FromFile(
    path="etc/amaru.yaml",
    by_id={"filed": Tenant(id="filed")},
    allowances=(budget(Scope.TENANT, "filed", from_file=True),),
    resources=frozenset({"chat"}),
    providers=frozenset({"openai"}),
)
