"""The fault matrix: every failure at every point of a request, through any gateway, over real sockets.

The harness knows nothing of the gateway under test. It holds two simulated providers per lane, which the gateway has
been told to ask in this order, makes them fail, asks the gateway as a careful client would, and judges what came:
`amaru.readiness.fault_matrix_cases` has the faults, `amaru.readiness.fault_matrix_reading` the client.

Every cell asks for a model of its own, so that nothing which a gateway has learned in one cell (a breaker, a cool-down)
plays a part in another. Cells of one lane run one after the other, lanes side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Literal

import msgspec

from amaru.readiness.fault_matrix_cases import Case, Way
from amaru.readiness.fault_matrix_reading import Answer, Result, Shape, Verdict, body_of, fetch, judged
from amaru.simulation import Fault, Latency, ProviderProfile, SimulatedProvider

PROVIDER_MODEL = "sim-model"
REOPEN_S = 10.0
"""A closed port is open again long before."""


class Placement(enum.StrEnum):
    """Who fails."""

    ONE = "one"
    """The provider that is asked first; a healthy one stands beside it."""
    BOTH = "both"
    """Two providers at once."""
    ALONE = "alone"
    """The only provider."""
    ONCE = "once"
    """The only provider, and only for one request: whoever may ask it again is served."""


class Cell(msgspec.Struct, frozen=True):
    """One experiment; its number makes the names of the model that it asks for, and of its lane."""

    number: int
    case: Case
    placement: Placement
    way: Way
    shape: Shape
    beside: Case | None = None
    """What befalls the second provider where both fail; ``None``: the same."""

    @property
    def model(self) -> str:
        """What the gateway is asked for."""
        return f"cell-{self.number}"

    @property
    def name(self) -> str:
        """For people: ``cut-mid-FIN one stream tools``."""
        beside = f" and {self.beside.name}" if self.beside is not None else ""
        return f"{self.case.name}{beside} {self.placement} {self.way} {self.shape}"

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Of the first provider, and of the second where it fails too."""
        fault = self.case.fault
        if self.placement is Placement.BOTH:
            return fault, (self.beside or self.case).fault
        return (msgspec.structs.replace(fault, times=1) if self.placement is Placement.ONCE else fault,)

    @property
    def needs_operator(self) -> bool:
        """Whether a provider stays out until somebody mends it."""
        return self.case.needs_operator or (self.beside is not None and self.beside.needs_operator)


class Outcome(msgspec.Struct):
    """What came of a cell."""

    cell: Cell
    verdict: Verdict
    seconds: float
    attempts: int
    """Requests that reached a provider, and connections that a fault struck while they were made."""
    next: Verdict
    """Of the request right after, with all providers well again."""
    open_attempts: int = 0
    """Calls still under way at the providers when that was over: abandoned ones that nobody closed."""


class Lane(msgspec.Struct, frozen=True):
    """Two simulated providers, in the order in which the gateway asks them."""

    first: SimulatedProvider
    second: SimulatedProvider

    @property
    def providers(self) -> tuple[SimulatedProvider, SimulatedProvider]:
        """Both."""
        return self.first, self.second


def profile(
    name: str,
    *,
    keys: tuple[str, ...] = (),
    prefill: Literal["continue", "reject"] = "continue",
    token_ms: float = 3.0,
) -> ProviderProfile:
    """A provider of the matrix; all of them give the same answers.

    ``token_ms`` is slow enough that what comes before a fault in the middle has been handed on when it strikes: by a
    gateway that needs less than eight events take (`fault_matrix_cases.MID_EVENTS`), 48 ms.
    """
    pace = Latency(ttft_ms=1, ttft_sigma=0, prefill_ms_per_ktok=0, itl_ms=token_ms, itl_sigma=0, load_weight=0)
    return ProviderProfile(
        name=name, models=(PROVIDER_MODEL,), latency=pace, tokens_per_event=2, keys=keys, prefill=prefill
    )


class Target(msgspec.Struct):
    """The gateway under test."""

    base_url: str
    headers: tuple[tuple[str, str], ...] = ()
    mend: Callable[[], Awaitable[None]] | None = None
    """Tells it that an operator has mended what only operators can mend (a key, a quota); ``None``: nothing to tell."""


def cells(
    cases: Iterable[Case],
    placements: Sequence[Placement] = tuple(Placement),
    shapes: Sequence[Shape] = tuple(Shape),
    *,
    first_number: int = 0,
) -> list[Cell]:
    """Every combination that exists. What passes by itself (``ONCE``) is asked for as text alone."""
    found: list[Cell] = []
    for case in cases:
        for placement in placements:
            if placement is Placement.ONCE and case.fault.kind == "refuse":
                continue  # a closed port cannot count requests
            for way in case.ways:
                for shape in shapes[:1] if placement is Placement.ONCE else shapes:
                    found.append(Cell(first_number + len(found), case, placement, way, shape))
    return found


async def references(lane: Lane, headers: tuple[tuple[str, str], ...] = ()) -> dict[Shape, Answer]:
    """The whole answers, from the providers themselves.

    Raises
    ------
    ValueError
        Providers or ways disagree: then nothing could be compared.
    """
    asked = [(shape, provider, way) for shape in Shape for provider in lane.providers for way in Way]
    got = await asyncio.gather(
        *(
            fetch(provider.base_url, headers, body_of(shape, PROVIDER_MODEL, way), 30.0)
            for shape, provider, way in asked
        )
    )
    found: dict[Shape, Answer] = {}
    for (shape, provider, way), (verdict, answer) in zip(asked, got, strict=True):
        if verdict.result is not Result.WHOLE or answer != found.setdefault(shape, answer):
            raise ValueError(f"{provider.profile.name}: {shape}, {way}: {verdict.words}: {verdict.detail}")
    return found


async def run(
    wanted: Sequence[Cell],
    lanes: Sequence[Lane],
    target: Target,
    expected: dict[Shape, Answer],
    *,
    patience_s: float,
    on_outcome: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Run the cells, each on lane ``number % len(lanes)``; outcomes in the order of ``wanted``."""
    outcomes: dict[int, Outcome] = {}

    async def one_lane(lane: Lane, mine: Sequence[Cell]) -> None:
        for cell in mine:
            outcomes[cell.number] = await run_cell(cell, lane, target, expected[cell.shape], patience_s=patience_s)
            on_outcome(outcomes[cell.number])

    async with asyncio.TaskGroup() as group:
        for place, lane in enumerate(lanes):
            mine = [cell for cell in wanted if cell.number % len(lanes) == place]
            group.create_task(one_lane(lane, mine))
    return [outcomes[cell.number] for cell in wanted]


async def run_cell(cell: Cell, lane: Lane, target: Target, expected: Answer, *, patience_s: float) -> Outcome:
    """Break what the cell breaks, ask, mend, and ask once more."""
    loop = asyncio.get_running_loop()
    body = body_of(cell.shape, cell.model, cell.way)
    arrived = sum(provider.requests for provider in lane.providers)
    active = [provider.faults.add(fault) for provider, fault in zip(lane.providers, cell.faults, strict=False)]
    started = loop.time()
    verdict, answer = await fetch(target.base_url, target.headers, body, patience_s)
    seconds = loop.time() - started
    attempts = sum(provider.requests for provider in lane.providers) - arrived
    attempts += sum(entry.hits for entry in active if entry.fault.point == "connect")
    for provider in lane.providers:
        provider.faults.clear()
    for provider in lane.providers:
        await _listening(provider)
    if target.mend is not None and cell.needs_operator:
        await target.mend()
    next_verdict, next_answer = await fetch(target.base_url, target.headers, body, patience_s)
    return Outcome(
        cell=cell,
        verdict=judged(verdict, answer, expected),
        seconds=seconds,
        attempts=attempts,
        next=judged(next_verdict, next_answer, expected),
        open_attempts=await _left_open(lane),
    )


async def _listening(provider: SimulatedProvider) -> None:
    """Wait until a port that a fault had closed is open again."""
    async with asyncio.timeout(REOPEN_S):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", provider.port)
                writer.close()
                return
            await asyncio.sleep(0.01)


async def _left_open(lane: Lane, limit_s: float = 2.0) -> int:
    """Calls that go on at the providers though nobody is served any more, after a while for closing them."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while any(provider.in_flight for provider in lane.providers):  # noqa: ASYNC110 - another server's tasks
                await asyncio.sleep(0.005)
    return sum(provider.in_flight for provider in lane.providers)


def in_words(outcome: Outcome) -> str:
    """One line, for a test that failed or a log."""
    verdict, after = outcome.verdict, outcome.next
    line = f"{outcome.cell.name}: {verdict.words} after {outcome.seconds:.2f} s and {outcome.attempts} attempts"
    line += f" ({verdict.detail})" if verdict.detail else ""
    if after.result is not Result.WHOLE:
        line += f"; the request right after: {after.words} ({after.detail})"
    return line
