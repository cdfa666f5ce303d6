"""``amaru psi anomalies``: a CSV series, or a live feed of one, row by row through the anomaly scorer."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from amaru.cli.psi_series import Mistake, Series, lines, plain, utc
from amaru.cli.reports import obstacle_to
from amaru.errors import AmaruError, StorageError
from amaru.files.whole import write_whole

if TYPE_CHECKING:
    from amaru.stability.anomaly import AnomalyScorer

STDIN = Path("-")
MAX_STATE_BYTES = 4 * 1024**2
MAGIC = b"AMARUANO"
VERSION = 1
"""Of the state file; another one is refused."""
SAVE_EVERY_S = 60.0
MOST_NAMED = 10
"""Mistakes that are named; further ones are only counted."""
_DIGEST_BYTES = 16
_GRADES = ((1e5, "extremely unusual"), (1e3, "very unusual"), (1e2, "unusual"), (0.0, "a little unusual"))


class Row(msgspec.Struct, frozen=True, gc=False):
    """One line of ``--json``."""

    line: int
    time: str | None
    at: float | None
    """Unix seconds."""
    value: float | None
    score: float
    surprise: float | None
    anomaly: bool


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that another run needs to go on."""

    version: int = VERSION
    scorer: bytes
    until: float | None = None
    """The latest instant that was scored, Unix seconds."""


def anomalies(
    file: Annotated[Path, typer.Argument(metavar="FILE|-", help="A CSV file; - is standard input.")],
    value: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Name or number of the signal's column; by default `value`.", show_default=False
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--time", metavar="COLUMN", help="And of its instants; by default `timestamp`, if any.", show_default=False
        ),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Go on from it, and save it again.", show_default=False)
    ] = None,
    json_lines: Annotated[bool, typer.Option("--json", help="Print each anomaly as a line of JSON.")] = False,
    every: Annotated[bool, typer.Option("--all", help="With --json: every row.")] = False,
    fail: Annotated[
        bool, typer.Option("--fail", help="Exit status 1 where there was an anomaly; what cannot be read is 2 then.")
    ] = False,
) -> None:
    """Find what is anomalous in a CSV series, each row by those before it: no training, no threshold to set.

    Times are ISO 8601 (UTC where they do not say) or Unix seconds or milliseconds. A live feed is scored as it comes,
    until it ends or Ctrl-C. Rows that cannot be read are named and left out; the exit status is 1 then.
    """
    if every and not json_lines:
        raise typer.BadParameter("only together with --json", param_hint="--all")
    name = "standard input" if file == STDIN else str(file)
    watch = _Watch(Series(name, value, at), json_lines, every)
    try:
        kept = _Kept(watch, state, time.monotonic())
        with _opened(file) as descriptor, _stopping() as stop:
            for number, line in enumerate(lines(name, descriptor, stop), 1):
                watch.take(number, line)
                kept.now_and_then(time.monotonic())
        kept.save()
        typer.echo(watch.summary(), err=json_lines)
    except AmaruError as error:
        if not fail:
            raise
        typer.echo(f"amaru: {error}", err=True)
        raise typer.Exit(2) from None
    if fail and watch.found:
        raise typer.Exit(1)
    if watch.mistakes:
        raise typer.Exit(2 if fail else 1)


class _Watch:
    """Scores one line after the other, and tells what is anomalous."""

    def __init__(self, series: Series, json_lines: bool, every: bool) -> None:
        from amaru.stability.anomaly import ALARM, AnomalyScorer

        self.scorer: AnomalyScorer = AnomalyScorer()
        self.until: float | None = None
        """The latest instant that was scored, Unix seconds."""
        self.rows = self.found = self.missing = self.known = self.mistakes = 0
        self._alarm, self._series, self._json, self._every = ALARM, series, json_lines, every
        self._known_until = -math.inf

    def go_on(self, saved: Saved) -> None:
        """From what another run left. Raises ValueError."""
        self.scorer.load(saved.scorer)
        if saved.until is not None:
            self.until = self._known_until = saved.until

    def take(self, number: int, line: bytes | None) -> None:
        """Take in a line; None: it was too long. Raises AmaruError where nothing says which column is meant."""
        try:
            self._score(number, line)
        except Mistake as mistake:
            self.mistakes += 1
            if self.mistakes <= MOST_NAMED:
                typer.echo(f"amaru: {self._series.name}, line {number}, {mistake}; the row is left out", err=True)
            if self.mistakes == MOST_NAMED:
                typer.echo("amaru: further rows that cannot be read are only counted", err=True)

    def summary(self) -> str:
        """What was seen, in a line."""
        parts = [_count(self.rows, "row"), _count(self.found, "anomaly", "anomalies")]
        if self.missing:
            parts.append(_count(self.missing, "missing value"))
        if self.known:
            parts.append(f"{_count(self.known, 'row')} left out that --state had seen, up to {utc(self._known_until)}")
        if self.mistakes:
            parts.append(f"{_count(self.mistakes, 'row')} that could not be read")
        return f"{self._series.name}: {', '.join(parts)}"

    def _score(self, number: int, line: bytes | None) -> None:
        if (seen := self._series.read(number, line)) is None:
            return
        if seen.at is not None and seen.at <= self._known_until:
            self.known += 1
            return
        score = self.scorer.score(seen.value, seen.at)
        self.rows += 1
        self.missing += seen.value is None
        if seen.at is not None:
            self.until = seen.at if self.until is None else max(seen.at, self.until)
        anomaly = score >= self._alarm
        self.found += anomaly
        if self._json and (anomaly or self._every):
            # The scorer's surprise is still the row's before where a value is missing.
            surprise = None if seen.value is None else self.scorer.surprise
            row = Row(number, seen.time, seen.at, seen.value, score, surprise, anomaly)
            typer.echo(msgspec.json.encode(row).decode())
        elif anomaly:
            where = plain(seen.time) if seen.time else f"line {number:,}"
            typer.echo(f"{where}  {seen.value:.10g}  score {score:.2f}  {in_words(self.scorer.surprise)}")


class _Kept:
    """The file of ``--state``: read at the start, written at the end, and once a minute by a feed that goes on."""

    def __init__(self, watch: _Watch, path: Path | None, now: float) -> None:
        self._watch, self._path, self._due = watch, path, now + SAVE_EVERY_S
        if path is None:
            return
        if (obstacle := obstacle_to(path.parent)) != "" or not path.parent.is_dir():
            raise StorageError(f"--state {path}: {obstacle or f'{path.parent} does not exist'}; name another file")
        try:
            with path.open("rb") as file:
                content = file.read(MAX_STATE_BYTES + 1)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(
                f"--state {path}: cannot be read: {error.strerror or error}; name another file"
            ) from None
        try:
            watch.go_on(decoded(content))
        except ValueError as error:
            raise StorageError(
                f"--state {path}: cannot be gone on from: {error}; it is left as it is: name another file, or move it"
            ) from None

    def now_and_then(self, now: float) -> None:
        """Save, if a minute (by ``now``, s) has gone by. Where that fails it is said, and tried again."""
        if now < self._due:
            return
        self._due = now + SAVE_EVERY_S
        try:
            self.save()
        except StorageError as error:
            typer.echo(f"amaru: {error}", err=True)

    def save(self) -> None:
        """Raises StorageError."""
        if self._path is None:
            return
        try:
            write_whole(self._path, encoded(Saved(scorer=self._watch.scorer.state(), until=self._watch.until)))
        except OSError as error:
            raise StorageError(f"--state {self._path}: cannot be written: {error.strerror or error}") from None


def in_words(surprise: float) -> str:
    """How unusual a row of this ``surprise`` (-log10 of its probability) is."""
    rows = 10.0 ** min(surprise, 9.0)
    grade = next(grade for least, grade in _GRADES if rows >= least)
    if surprise >= 9.0:
        return f"{grade}: less than 1 row in a billion"
    figure = float(f"{rows:.2g}")
    return f"{grade}: 1 row in {figure:,.0f}"


def encoded(saved: Saved) -> bytes:
    """The state file's bytes: what it is, a digest (BLAKE2b) of the rest, a MessagePack."""
    body = msgspec.msgpack.encode(saved)
    return MAGIC + _digest(body) + body


def decoded(content: bytes) -> Saved:
    """What is in the state file's bytes. Raises ValueError."""
    if not content.startswith(MAGIC):
        raise ValueError("it is no state of `amaru psi anomalies`")
    if len(content) > MAX_STATE_BYTES:
        raise ValueError(f"it is larger than {MAX_STATE_BYTES:,} bytes")
    head = len(MAGIC) + _DIGEST_BYTES
    body = content[head:]
    if _digest(body) != content[len(MAGIC) : head]:
        raise ValueError("it is torn or damaged: its content has another digest than it says")
    try:
        version = msgspec.msgpack.decode(body, type=dict[str, msgspec.Raw]).get("version")
        if version is not None and (found := msgspec.msgpack.decode(version, type=int)) != VERSION:
            raise ValueError(f"it is of version {found}, and this amaru reads version {VERSION}")
        return msgspec.msgpack.decode(body, type=Saved)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"another version of amaru wrote it ({error})") from None


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()


def _count(number: int, one: str, several: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


@contextmanager
def _opened(file: Path) -> Iterator[int]:
    if file == STDIN:
        if sys.stdin is None:  # Python's own check at its start: 0 is some other descriptor by now
            raise AmaruError("standard input: cannot be read: it is closed; pipe a series in, or name a file")
        yield 0
        return
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise AmaruError(f"{file}: cannot be read: {error.strerror or error}") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _stopping() -> Iterator[int]:
    """A descriptor at which there is something to read once Ctrl-C or SIGTERM came: what was read is scored first."""
    stop, told = os.pipe()
    os.set_blocking(told, False)

    def tell(*_: object) -> None:
        with suppress(BlockingIOError):
            os.write(told, b".")

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, tell) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        os.close(stop)
        os.close(told)
