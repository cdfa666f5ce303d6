"""A decision as numbers: cheap to make and to store, put into words only when someone asks."""

from __future__ import annotations

from collections.abc import Container

import msgspec
import numpy as np

from amaru.domain import Seen, Workload
from amaru.routing import kernels as k
from amaru.routing.board import Board


class Figures:
    """What a decision was made from; enough, with the board's offers, to explain it.

    Attributes
    ----------
    version
        Of the board whose rows are meant.
    workload, at, policy
        What was asked, when (seconds), and the policy's name.
    rows, codes, table
        [n] board rows asked about; [n] ``Code`` of each; float64 [n, N_TABLE] figures of each.
    order
        Board rows of the feasible offers, best first.
    tied
        How many offers shared the policy's best score; the first of them was drawn by lot.
    explored, propensity
        Whether the exploration floor drew the first place; with which probability it came first.
    """

    __slots__ = (
        "at",
        "codes",
        "explored",
        "order",
        "policy",
        "propensity",
        "rows",
        "table",
        "tied",
        "version",
        "workload",
    )

    def __init__(
        self, version: str, workload: Workload, at: float, policy: str, rows: k.Ints, codes: k.Ints, table: k.Floats
    ) -> None:
        self.version = version
        self.workload = workload
        self.at = at
        self.policy = policy
        self.rows = rows
        self.codes = codes
        self.table = table
        self.order: list[int] = []
        self.tied = 0
        self.explored = False
        self.propensity = 0.0


class Ranking(Figures):
    """The answer of ``Router.decide``: figures, and the board that they are about.

    Attributes
    ----------
    board
        Whose rows ``order`` names: admit on this one.
    ask, excluded
        float64 [N_ASK] and [m] rows: what the kernel is asked. ``ask`` is valid while the policy ranks, and not after.
    transient
        Some offer was refused only for a cause that passes by itself.
    """

    __slots__ = ("ask", "board", "excluded", "transient")

    def __init__(
        self,
        board: Board,
        workload: Workload,
        at: float,
        policy: str,
        rows: k.Ints,
        codes: k.Ints,
        table: k.Floats,
        ask: k.Floats,
        excluded: k.Ints,
    ) -> None:
        self.version = board.version
        self.workload = workload
        self.at = at
        self.policy = policy
        self.rows = rows
        self.codes = codes
        self.table = table
        self.explored = False
        self.board = board
        self.ask = ask
        self.excluded = excluded
        self.transient = False

    def rule_out(self, row: int, code: k.Code) -> None:
        """An offer that was asked about is not to be had after all."""
        self.codes[self.rows == row] = code
        if self.order[:1] == [row]:
            self.propensity = 0.0  # nobody can say how probable it was that the next comes first
        if row in self.order:
            self.order.remove(row)

    def may_return(self, rows: Container[int]) -> bool:
        """Whether waiting can bring one of ``rows`` back: it is feasible, or refused for a cause that ends visibly."""
        return any(
            (code == k.Code.FEASIBLE or code > k.Code.SLOWED) and row in rows
            for row, code in zip(self.rows.tolist(), self.codes.tolist(), strict=True)
        )


def seen_of(figures: Figures, row: int) -> Seen:
    """What the decision saw of the offer ``row``, which was among those asked about."""
    table = figures.table
    # Once per attempt: lists of a handful of numbers cost a third of NumPy's single reads and reductions.
    own = table[figures.rows.tolist().index(row)].tolist()
    return Seen(
        unit_price=own[k.UNIT_PRICE],
        latency_ms=own[k.LATENCY],
        posted_ms=own[k.POSTED_MS],
        reputation=own[k.TRUST],
        success=own[k.SUCCESS_SEEN],
        best_price=min(table[:, k.UNIT_PRICE].tolist()),
        best_ms=min(table[:, k.POSTED_MS].tolist()),
    )


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    version: str
    at: float
    policy: str
    explored: bool
    propensity: float
    tied: int
    workload: Workload
    order: list[int]
    rows: list[int]
    codes: list[int]
    table: bytes
    """float32."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


def pack(ranking: Figures) -> bytes:
    """The ranking as bytes, for storage: about 50 bytes an offer, figures with seven digits.

    No prompt is in it, and no session id.
    """
    workload = ranking.workload
    if workload.session is not None:
        workload = msgspec.structs.replace(workload, session=None)
    return _encode(
        _Packed(
            ranking.version,
            ranking.at,
            ranking.policy,
            ranking.explored,
            ranking.propensity,
            ranking.tied,
            workload,
            ranking.order,
            ranking.rows.tolist(),
            ranking.codes.tolist(),
            ranking.table.astype(np.float32).tobytes(),
        )
    )


def unpack(packed: bytes) -> Figures:
    """The figures that ``pack`` stored. Raises ValueError where the bytes are not such."""
    try:
        stored = _decode(packed)
        rows, codes = np.array([stored.rows, stored.codes], dtype=np.int64)
        table = np.frombuffer(stored.table, dtype=np.float32).reshape(len(rows), -1 if len(rows) else k.N_TABLE)
        if table.shape[1] != k.N_TABLE:  # stored before the last columns were there
            missing = np.zeros((len(rows), k.N_TABLE - table.shape[1]), dtype=np.float32)
            table, known = np.hstack([table, missing]), table.shape[1]
            if known <= k.CARED:
                table[:, k.CARED] = 1.0
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"these bytes are not a packed ranking: {error}") from error
    # Back to the seven digits that float32 keeps, so that 3.2 reads 3.2 and not 3.2000000477.
    digits = np.array([float(f"{figure:.7g}") for figure in table.reshape(-1).tolist()]).reshape(table.shape)
    figures = Figures(stored.version, stored.workload, stored.at, stored.policy, rows, codes, digits)
    figures.order = list(stored.order)
    figures.tied = stored.tied
    figures.explored = stored.explored
    figures.propensity = stored.propensity
    return figures
