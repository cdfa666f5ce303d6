"""How far a count is, and when it will be done."""

from __future__ import annotations

import io

from rich.console import Console

from amaru.readiness.counting import Count, CountLines, Stopwatch, view_on


class Seen(CountLines):
    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.counts: list[Count] = []

    def show(self, count: Count) -> None:
        self.counts.append(count)


def test_the_time_until_the_first_is_done_does_not_count_for_the_others() -> None:
    instants = iter([100.0, 120.0, 130.0, 132.0, 138.0])
    view = Seen()
    watch = Stopwatch(view, clock=lambda: next(instants))
    for done in (0, 1, 2, 5):
        watch.show(done, 11, "")
    assert [count.eta_s for count in view.counts] == [None, None, 18.0, 12.0]
    assert [count.elapsed_s for count in view.counts] == [20.0, 30.0, 32.0, 38.0]


def test_without_a_terminal_a_line_comes_every_ten_seconds() -> None:
    console = Console(file=io.StringIO(), width=100)
    view = view_on(console, "amaru something")
    assert isinstance(view, CountLines)
    with view:
        for second in range(1, 26):
            view.show(Count(elapsed_s=second, done=second, of=25, words=f"{second} things", eta_s=25.0 - second))
    assert console.file.getvalue().splitlines() == ["10 s, ETA 15 s: 10 things", "20 s, ETA 5 s: 20 things"]


def test_after_a_long_silence_one_line_comes_and_not_all_that_were_due() -> None:
    console = Console(file=io.StringIO(), width=100)
    with view_on(console, "amaru something") as view:
        for second in (95, 96, 99, 100):
            view.show(Count(elapsed_s=second, done=1, of=2, words="one thing", eta_s=None))
    assert console.file.getvalue().splitlines() == ["1:35 min: one thing", "1:40 min: one thing"]


def test_in_a_terminal_it_is_a_picture_that_ends_without_an_eta() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with view_on(console, "amaru something") as view:
        view.show(Count(elapsed_s=3.0, done=2, of=2, words="all of it", eta_s=0.0))
    shown = console.file.getvalue()
    assert "amaru something" in shown
    assert "all of it" in shown
    assert "ETA" not in shown
