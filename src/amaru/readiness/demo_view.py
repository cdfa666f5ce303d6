"""The demo in the terminal: live where there is one, plain lines where there is none."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from amaru.readiness.demo_board import LaneTotals, ProviderRow, Snapshot

PLAIN_EVERY_S = 10.0
EVENT_LINES = 7
BAR_CELLS = 14
_COLOURS = {"available": "green", "throttled": "yellow", "unavailable": "red"}


class View(Protocol):
    """Shows a run while it goes on. Used as a context manager."""

    def __enter__(self) -> View: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, snapshot: Snapshot) -> None:
        """Show how things stand."""

    def say(self, words: str) -> None:
        """Say something in between."""


class PlainView:
    """Lines: each event, and the totals every ten seconds."""

    def __init__(self, console: Console, favourite: str) -> None:
        self._console = console
        self._favourite = favourite
        self._events_shown = 0
        self._next_s = PLAIN_EVERY_S

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, snapshot: Snapshot) -> None:
        for event in snapshot.events[self._events_shown :]:
            self.say(event)
        self._events_shown = len(snapshot.events)
        if snapshot.elapsed_s >= self._next_s:
            self._next_s += PLAIN_EVERY_S
            amaru, alone = snapshot.amaru, snapshot.alone
            over = snapshot.elapsed_s > snapshot.duration_s
            when = "waiting for the last answers" if over else f"of {snapshot.duration_s:.0f} s"
            self.say(
                f"{snapshot.elapsed_s:.0f} s {when}: through amaru {amaru.served} served, "
                f"{amaru.saved} saved by failover, {amaru.failed} failed; bound to {self._favourite} alone "
                f"{alone.served} served, {alone.failed} failed, {alone.in_flight} waiting"
            )

    def say(self, words: str) -> None:
        self._console.print(words, markup=False, highlight=False, soft_wrap=True)


class LiveView:
    """A dashboard that is drawn anew a few times a second."""

    def __init__(self, console: Console, favourite: str) -> None:
        self._favourite = favourite
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        self._live.update(dashboard(snapshot, self._favourite), refresh=True)

    def say(self, words: str) -> None:
        self._live.console.print(words, markup=False, highlight=False)


def dashboard(snapshot: Snapshot, favourite: str) -> Group:
    """The whole picture."""
    providers = Table(title="simulated providers, last seconds", title_justify="left", expand=True, box=None)
    for name, justify in (
        ("provider", "left"),
        ("amaru sees", "left"),
        ("share of answers", "left"),
        ("first token p50", "right"),
        ("p95", "right"),
        ("success", "right"),
        ("incident", "left"),
    ):
        providers.add_column(name, justify=justify, no_wrap=True, ratio=2 if name == "incident" else None)  # type: ignore[arg-type]  # rich's literal
    for row in snapshot.rows:
        providers.add_row(*_cells(row))
    clients = Table(expand=True, box=None)
    for name in ("client", "served", "saved by failover", "failed", "open", "answers/s", "first token p95", "spent"):
        clients.add_column(name, justify="left" if name == "client" else "right", no_wrap=True)
    clients.add_row(Text("through amaru", style="bold"), *_totals(snapshot.amaru, through=True))
    clients.add_row(f"bound to {favourite} alone", *_totals(snapshot.alone, through=False))
    events = Text("\n".join(snapshot.events[-EVENT_LINES:]) or "no incident yet", no_wrap=True, overflow="ellipsis")
    progress = Table.grid(expand=True)
    progress.add_column(ratio=1)
    progress.add_column(justify="right", width=16)
    progress.add_row(
        ProgressBar(total=snapshot.duration_s, completed=min(snapshot.elapsed_s, snapshot.duration_s)),
        f"{snapshot.elapsed_s:5.0f} of {snapshot.duration_s:.0f} s"
        if snapshot.elapsed_s <= snapshot.duration_s
        else "last answers ...",
    )
    return Group(
        Panel(Group(providers, "", clients), title="amaru demo · everything on this machine · Ctrl-C ends it"),
        Panel(events, title="what is happening", height=EVENT_LINES + 2),
        progress,
    )


def _cells(row: ProviderRow) -> tuple[Text | str, ...]:
    bar = "█" * round(row.share * BAR_CELLS)
    return (
        Text(row.name, style="bold red" if row.incident else "bold"),
        Text(row.seen or "…", style=_COLOURS.get(row.seen, "")),
        f"{row.share:4.0%} {bar:<{BAR_CELLS}}",
        _milliseconds(row.first_token.p50),
        _milliseconds(row.first_token.p95),
        "" if row.success is None else f"{row.success:.0%}",
        Text(row.incident, style="red"),
    )


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


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.0f} ms"
