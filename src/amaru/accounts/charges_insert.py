"""Charges into SQLite: many by one statement, and what they have in common once.

Of a charge's columns most are the same for every request of a caller at an offer. To bind them again for each row takes
longer than all else of a turn; so they go into a table of the connection's own, and the rows name theirs by a number.
``benchmarks/charges_insert.py`` measures both.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from sqlalchemy.engine import Connection

from amaru.accounts.charges import Charge
from amaru.accounts.schema import charges
from amaru.storage.inserting import RowsInsert

OWN = (
    "id", "at", "decision", "attempt", "provider_ref", "input_tokens", "cached_input_tokens", "output_tokens", "usage",
    "cost_pusd",
)  # fmt: skip
"""Columns that tell charges apart."""
COMMON = tuple(name for name in Charge.__struct_fields__ if name not in OWN)
_own_of, _common_of = attrgetter(*OWN), attrgetter(*COMMON)


def insert_charges(connection: Connection, made: Sequence[tuple[Charge, str | None]], holder: str) -> None:
    """Insert charges, each with what of it stands, as JSON; one whose id is there already is left as it is."""
    numbers: dict[tuple[object, ...], int] = {}
    rows = []
    for charge, reserved in made:
        common = _common_of(charge)
        number = numbers.get(common)
        if number is None:
            number = numbers[common] = len(numbers)
        rows.append((number, *_own_of(charge), reserved))
    connection.exec_driver_sql(_MAKE)
    connection.exec_driver_sql(_CLEAR)
    connection.exec_driver_sql(
        _FILL,
        [(number, holder, *(_plain(value) for value in common)) for common, number in numbers.items()],
    )
    _insert_rows(connection, rows)


def _plain(value: object) -> object:
    """As the driver binds it: a member of an enum as its text."""
    return str.__str__(value) if isinstance(value, str) else value


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


_MAKE = f"CREATE TEMP TABLE IF NOT EXISTS amaru_common (number INTEGER PRIMARY KEY, holder, {_quoted(COMMON)})"
_CLEAR = "DELETE FROM temp.amaru_common"
_FILL = f"INSERT INTO temp.amaru_common VALUES ({', '.join('?' * (2 + len(COMMON)))})"  # noqa: S608 - names of ours


def _statement(size: int) -> str:
    row = f"({', '.join('?' * (2 + len(OWN)))})"
    source = {name: f"v.column{at}" for at, name in enumerate((*OWN, "reserved"), 2)}
    names = [column.name for column in charges.columns]
    values = ", ".join(source.get(name, f'c."{name}"') for name in names)
    return (
        f"INSERT INTO {charges.name} ({_quoted(names)}) SELECT {values}"  # noqa: S608 - names of ours
        f" FROM (VALUES {', '.join([row] * size)}) v CROSS JOIN temp.amaru_common c ON c.number = v.column1"
        " WHERE true ON CONFLICT (id) DO NOTHING"
    )


_insert_rows = RowsInsert(_statement)
