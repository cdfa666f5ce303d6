"""The stored form of a replay's report, and how it is read back."""

from __future__ import annotations

from pathlib import Path

import msgspec

from amaru import __version__
from amaru.errors import ReportError
from amaru.readiness.markdown import plain
from amaru.readiness.measuring import Summary
from amaru.readiness.replay_series import Curves, Series

SCHEMA = "amaru.replay/1"
"""Goes up when a reader of the old form would misread the new one."""
DATA = "replay.json"


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What was run: whatever a figure depends on and the target did not choose. Holds no key."""

    trace: str
    trace_format: str
    speed: float
    target: str
    """The URL without user, password, query and fragment."""
    model: str
    slo_first_token_s: float
    complete: bool
    """False: it was stopped before the end of the trace."""
    started_at: str
    """ISO 8601, UTC."""
    command: str
    machine: dict[str, str]
    client: dict[str, str] = {}
    """How the client behaved, fact by fact."""

    @property
    def machine_words(self) -> str:
        """The machine in a line."""
        named = [f"{value} cores" if name == "cores" else value for name, value in self.machine.items()]
        return ", ".join(named) or "not known"

    @property
    def client_words(self) -> str:
        """The client in a line, but for the seed of its prompts."""
        facts = [f"{name.replace('_', ' ')} {value}" for name, value in self.client.items() if name != "seed"]
        return ", ".join(facts) or "not known"

    @property
    def seed(self) -> str:
        """The prompts' seed."""
        return self.client.get("seed", "not known")


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known of a replay, as ``replay.json`` holds it."""

    schema: str = SCHEMA
    version: str = __version__
    """amaru's."""
    setup: Setup
    summary: Summary
    error_examples: dict[str, str]
    """For each kind of error, the words of the first."""
    warnings: tuple[str, ...]
    """What a reader must know before taking the figures for what they seem to say."""
    curves: Curves
    series: Series


def read_report(path: Path) -> ReplayReport:
    """Read a report; ``path`` is its directory, or its ``replay.json``.

    Raises
    ------
    ReportError
        It is missing, no report of a replay, or of a version that this amaru cannot read.
    """
    file = path / DATA if path.is_dir() else path
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise ReportError(f"{file} does not exist; name the directory that `amaru replay --out` wrote") from None
    except OSError as error:
        raise ReportError(f"cannot read {file}: {error.strerror or error}") from error
    try:
        schema = msgspec.json.decode(raw, type=_Head).schema
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReportError(f"{file} is no report of a replay ({error}); `amaru replay` writes one") from None
    if schema != SCHEMA:
        known = schema.startswith(SCHEMA.rpartition("/")[0] + "/")
        what = f"has the form {plain(schema)!r}" if known else f"is no report of a replay, but {plain(schema)!r}"
        raise ReportError(f"{file} {what}; this amaru ({__version__}) reads {SCHEMA!r}: replay the trace again")
    try:
        return msgspec.json.decode(raw, type=ReplayReport)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReportError(f"{file} is damaged: {error}; replay the trace again") from None


class _Head(msgspec.Struct):
    schema: str
