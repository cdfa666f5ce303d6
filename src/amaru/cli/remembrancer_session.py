"""What every command of the Remembrancer shares: its options, its exit codes, and how it says what went wrong."""

from __future__ import annotations

import enum
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amaru.errors import AmaruError, EntryPruned, LedgerBusy, LedgerCorrupt, ProofError

if TYPE_CHECKING:
    from amaru.ledger.remembrancer import Remembrancer


class ExitCode(enum.IntEnum):
    """What a command's exit status says; ``docs/guides/remembrancer.md`` holds the same table."""

    words: str

    def __new__(cls, value: int, words: str) -> ExitCode:
        code = int.__new__(cls, value)
        code._value_ = value
        code.words = words
        return code

    OK = 0, "done; what was asked about holds"
    FAILED = 1, "it could not be done; the message says why"
    USAGE = 2, "asked for in a way that cannot be understood"
    UNPROVEN = 3, "something does not hold: altered, forged, missing, another prompt, or not signed by a trusted key"
    NOT_FOUND = 4, "the log has no such receipt, or none about this file"
    BUSY = 5, "another process writes this log, or is indexing it"
    PRUNED = 6, "it is in the log, provably; its text was erased"
    UNAVAILABLE = 7, "gpg, its key or a time-stamping authority is needed and cannot be had"
    NO_HISTORY = 8, "what is there holds; checkpoints published before are not there to check it against"


EXIT_STATUS = "Exit status: " + "; ".join(f"{int(code)} {code.words.partition(';')[0]}" for code in ExitCode) + "."


Ledger = Annotated[
    str | None,
    typer.Option(
        "--ledger", metavar="URL", envvar="AMARU_LEDGER", show_default=False,
        help="Folder or URL of the log; by default ledger/ in the data folder of amaru.yaml.",
    ),
]  # fmt: skip
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Trusting = Annotated[
    Path | None,
    typer.Option(
        "--trust", metavar="FILE", show_default=False,
        help="What you trust: the log's public key (vkey), GPG fingerprints, root certificates.",
    ),
]  # fmt: skip
Component = Annotated[
    str | None, typer.Option("--component", metavar="NAME", help="Only what is about it.", show_default=False)
]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="30d, 12h, 2026-11-21, or an instant.", show_default=False),
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many, the newest.")]

DATA = Path("amaru-data")
EVERY_S = 0.25
"""Between two lines about how far something is."""


@contextmanager
def outcomes(as_json: bool) -> Iterator[None]:
    """Turn errors into words and exit codes: on stderr, or as JSON on stdout."""
    try:
        yield
    except AmaruError as error:
        fail(str(error), code_of(error), as_json)
    except typer.BadParameter as error:
        if not as_json:
            raise
        fail(f"{error.param_hint}: {error.message}" if error.param_hint else error.message, ExitCode.USAGE, as_json)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@contextmanager
def session(ledger: str | None, as_json: bool, trust: Path | None = None) -> Iterator[Remembrancer]:
    """The Remembrancer of the ledger that the options name."""
    with outcomes(as_json):
        from amaru.ledger.remembrancer import Remembrancer
        from amaru.ledger.trust import read_trust

        place = place_of(ledger)
        trusted = read_trust(trust) if trust is not None else None
        with Remembrancer(place, trust=trusted, told=tell, progress=Progress("indexing")) as remembrancer:
            yield remembrancer


def place_of(ledger: str | None) -> Any:  # Any: a Place; its module is imported late
    """Where the ledger lies. Raises LedgerError."""
    from amaru.ledger.place import Place

    data = data_folder(os.environ)
    return Place.of(ledger or ledger_url(os.environ), data, index=os.environ.get("AMARU_LEDGER_INDEX") or None)


def at_ledger(ledger: str | None) -> str:
    """What a command that is suggested needs, to be about the same ledger."""
    return "" if ledger is None or os.environ.get("AMARU_LEDGER") == ledger else f" --ledger {shlex.quote(ledger)}"


def data_folder(environment: Any) -> Path:  # Any: a mapping of texts
    """The folder of amaru's data: where the configuration, or a variable over it, has the database.

    The file is not checked: whoever asks an auditor's question need not have the providers' keys.
    """
    given = _setting(environment, "storage", "path")
    folder = _file(environment).parent
    return (folder / given).parent if given else folder / DATA


def ledger_url(environment: Any) -> str:  # Any: as above
    """Where the configuration has the ledger: beside the database, unless ``ledger.url`` says otherwise."""
    given = _setting(environment, "ledger", "url")
    if given is None:
        return str(data_folder(environment) / "ledger")
    return given if "://" in given else str(_file(environment).parent / given)


def _file(environment: Any) -> Path:  # Any: as above
    return Path(environment.get("AMARU_CONFIG") or "amaru.yaml")


def _setting(environment: Any, section: str, name: str) -> str | None:  # Any: as above
    """A setting of the configuration, or of the variable over it. Raises LedgerError where the file is not readable."""
    from amaru.errors import LedgerError

    given = environment.get(f"AMARU_{section}__{name}".upper())
    file = _file(environment)
    if given or not file.is_file():
        return given or None
    import yaml

    try:
        content = yaml.safe_load(file.read_bytes())
        settings = content.get(section) if isinstance(content, dict) else None
        found = settings.get(name) if isinstance(settings, dict) else None
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        raise LedgerError(
            f"{file} cannot be read, and so not where the ledger lies: name it with --ledger, or see "
            "`amaru config check`"
        ) from None
    return str(found) if found else None


def code_of(error: AmaruError) -> ExitCode:
    """The exit code that says what sort of error it was."""
    from amaru.ledger.remembrancer import NoReceipt
    from amaru.ledger.search import SearchError
    from amaru.ledger.troubles import AnchorError

    codes: tuple[tuple[type[AmaruError], ExitCode], ...] = (
        (SearchError, ExitCode.USAGE),
        (NoReceipt, ExitCode.NOT_FOUND),
        (LedgerBusy, ExitCode.BUSY),
        (EntryPruned, ExitCode.PRUNED),
        (ProofError, ExitCode.UNPROVEN),
        (LedgerCorrupt, ExitCode.UNPROVEN),
        (AnchorError, ExitCode.UNAVAILABLE),
    )
    return next((code for kind, code in codes if isinstance(error, kind)), ExitCode.FAILED)


def fail(message: str, code: ExitCode, as_json: bool) -> None:
    """Say it and exit."""
    if as_json:
        print_json({"error": {"exit": int(code), "kind": code.name.lower(), "message": message}})
    else:
        tell(message)
    raise typer.Exit(int(code))


def print_json(document: object) -> None:
    """One document on stdout, indented."""
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def tell(line: str) -> None:
    """A line for a person, on stderr."""
    from amaru.telemetry.redaction import printable

    typer.echo(f"remembrancer: {printable(line)}", err=True)


class Progress:
    """Says on a terminal how far something long is."""

    LONG = 20_000

    def __init__(self, what: str) -> None:
        self._what = what
        self._first: int | None = None
        self._shown = 0.0

    def __call__(self, done: int, size: int) -> None:
        self._first = done if self._first is None else self._first
        if not sys.stderr.isatty() or size - self._first < self.LONG:
            return
        now = time.monotonic()
        if done < size and now - self._shown > EVERY_S:
            typer.echo(f"\rremembrancer: {self._what}, {done:,} of {size:,} entries", err=True, nl=False)
            self._shown = now
        elif done >= size and self._shown:
            typer.echo("\r\x1b[K", err=True, nl=False)
