"""The compiled part of the environments: the live router's filter, called from Python for one request."""

from __future__ import annotations

from amaru.compiling import compiled
from amaru.routing import kernels as k
from amaru.routing.kernels import Floats, Ints


@compiled(
    "UniTuple(int64, 2)(int64[::1], float64[:, ::1], float64[:, ::1], float64[::1], int64[::1], float64[:, ::1],"
    " int64[::1], int64[::1])"
)
def look(
    rows: Ints, static: Floats, live: Floats, ask: Floats, excluded: Ints, table: Floats, codes: Ints, order: Ints
) -> tuple[int, int]:
    """See ``kernels.look``."""
    return k.look(rows, static, live, ask, excluded, table, codes, order)
