"""The demo in the terminal: live where there is one, plain lines where there is none."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from amaru.readiness.demo_board import Event, LaneTotals, ProviderRow, Snapshot
from amaru.readiness.views import Lines, Picture, title

BAR_CELLS = 8
LEAST_EVENTS = 3
_FIXED_ROWS = 8
"""Rows of the picture besides one per provider and one per event."""
_SEEN_STYLES = {"available": "green", "throttled": "yellow"}
_EVENT_STYLES = {"struck": "red", "well": "green", "note": "yellow"}


class PlainView(Lines):
    """Lines: each event, and the totals every ten seconds."""

    def __init__(self, console: Console, favourite: str) -> None:
        super().__init__(console)
        self._favourite = favourite
        self._events_shown = 0

    def show(self, snapshot: Snapshot) -> None:
        """See `View`."""
        for event in snapshot.events[self._events_shown :]:
            self._say(str(event))
        self._events_shown = len(snapshot.events)
        if self._due(snapshot.elapsed_s):
            amaru, alone = snapshot.amaru, snapshot.alone
            over = snapshot.elapsed_s > snapshot.duration_s
            when = "waiting for the last answers" if over else f"of {snapshot.duration_s:.0f} s"
            self._say(
                f"{snapshot.elapsed_s:.0f} s {when}: through amaru {amaru.served} served, "
                f"{amaru.saved} saved by failover, {amaru.failed} failed; bound to {self._favourite} alone "
                f"{alone.served} served, {alone.failed} failed, {alone.in_flight} waiting"
            )


class LiveView(Picture):
    """A dashboard that fills the terminal, drawn anew a few times a second; gone when it is left."""

    def __init__(self, console: Console, favourite: str) -> None:
        super().__init__(console, screen=True)
        self._console = console
        self._favourite = favourite

    def show(self, snapshot: Snapshot) -> None:
        """See `View`."""
        self._draw(dashboard(snapshot, self._favourite, self._console.height))


def dashboard(snapshot: Snapshot, favourite: str, height: int) -> Group:
    """The whole picture, in ``height`` rows where that is enough for it; made for 80 columns and more."""
    lines = max(LEAST_EVENTS, height - _FIXED_ROWS - len(snapshot.rows))
    events = Text("\n", no_wrap=True, overflow="ellipsis").join(_event(event) for event in snapshot.events[-lines:])
    quiet = Text("no incident yet", style="dim")
    return Group(
        _title(snapshot), "", _providers(snapshot), "", _clients(snapshot, favourite), "", events or quiet
    )  # fmt: skip


def _title(snapshot: Snapshot) -> Table:
    over = snapshot.elapsed_s > snapshot.duration_s
    when = "waiting for the last answers" if over else f"{snapshot.elapsed_s:.0f} of {snapshot.duration_s:.0f} s"
    return title("amaru demo", when, snapshot.elapsed_s, snapshot.duration_s)


def _providers(snapshot: Snapshot) -> Table:
    """What came of the last seconds, by provider; the first figure of latency is the median."""
    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("provider", no_wrap=True)
    table.add_column("answers", no_wrap=True)
    for name in ("first token", "p95", "success"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("amaru sees", no_wrap=True, min_width=13)
    table.add_column("incident", no_wrap=True, min_width=14)
    for row in snapshot.rows:
        table.add_row(*_provider(row))
    return table


def _provider(row: ProviderRow) -> tuple[Text | str, ...]:
    bar = "█" * round(row.share * BAR_CELLS)
    return (
        Text(row.name, style="bold red" if row.incident else "bold"),
        f"{row.share:4.0%} {bar:<{BAR_CELLS}}",
        _milliseconds(row.first_token.p50),
        _milliseconds(row.first_token.p95),
        "" if row.success is None else f"{row.success:.0%}",
        Text(row.seen or "…", style=_SEEN_STYLES.get(row.seen, "red")),
        Text(row.incident, style="red"),
    )


def _clients(snapshot: Snapshot, favourite: str) -> Table:
    """Both clients, from the start; rates and latencies of the last seconds."""
    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("client", no_wrap=True)
    for name in ("served", "saved", "failed", "open", "per s", "first token p95", "spent"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(Text("through amaru", style="bold"), *_totals(snapshot.amaru, through=True))
    table.add_row(f"bound to {favourite} alone", *_totals(snapshot.alone, through=False))
    return table


def _totals(lane: LaneTotals, *, through: bool) -> tuple[Text | str, ...]:
    failed = lane.failed + lane.dropped
    return (
        str(lane.served),
        Text(str(lane.saved), style="green") if through else "",
        Text(str(failed), style="red" if failed else ""),
        str(lane.in_flight),
        f"{lane.per_s:.1f}",
        _milliseconds(lane.first_token.p95),
        f"${lane.cost_usd:.4f}" if through else "",
    )


def _event(event: Event) -> Text:
    return Text.assemble((f"{event.at_s:4.0f} s  ", "dim"), (event.words, _EVENT_STYLES.get(event.what, "")))


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.0f} ms"
