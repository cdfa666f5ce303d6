"""What outlives the process: patterns, healings and their effects, and the states of what has learned.

Everything lies in one folder, in files that are there whole or not at all:

======================================  ===============================================================================
``pattern_memory.json``                 every pattern and healing of the last ``history_days``
``state.msgpack``                       the states of signatures, patterns, healer, field and guardian
``infrastructure_state_<time>.json``    the report of that moment
``session_analysis_<time>.json``        one process's life: what happened, and what helped
======================================  ===============================================================================

A file that cannot be read is set aside under another name, and said so in ``notes``: it costs what it held, and nothing
else. Nothing in here raises for a disk that fails; ``failure`` says so until a write succeeds.

``remember``, ``keep`` and ``draft`` belong to one thread; ``write`` may run on any.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from amaru.files.whole import write_whole
from amaru.health.healing import SelfHealingAction
from amaru.health.pattern_types import InfrastructurePattern

VERSION = 1
"""Of both files; another one is set aside."""
PATTERNS = "pattern_memory.json"
STATES = "state.msgpack"
SNAPSHOT, SESSION = "infrastructure_state", "session_analysis"
MOST = 5000
"""Patterns, and healings, that are kept; the oldest go first."""
DAY_S = 86_400.0
_DATED = re.compile(r"(?<=[_-])\d{8}T\d{6}Z(?=\.json$|$)")

T = TypeVar("T")


class MemorySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept, and how long."""

    files: int = 100
    """Snapshots and session analyses together, with what was set aside."""
    days: float = 7.0
    """Of the same."""
    history_days: float = 90.0
    """Of patterns and healings."""


class _Patterns(msgspec.Struct):
    version: int
    saved_at: float
    patterns: list[InfrastructurePattern]
    healings: list[SelfHealingAction]


class _States(msgspec.Struct):
    version: int
    saved_at: float
    parts: dict[str, bytes]


class Draft(msgspec.Struct):
    """What is to be written, as it was when it was drafted."""

    at: float
    patterns: list[InfrastructurePattern]
    healings: list[SelfHealingAction]
    parts: dict[str, bytes] | None
    files: dict[str, Any]  # Any: JSON
    """By name."""
    remembered: bool
    """The patterns or healings differ from what was written last."""


class Memory:
    """What is remembered in ``folder``, which is made with the first write."""

    def __init__(self, folder: Path, settings: MemorySettings, *, wall: Callable[[], float]) -> None:
        self.folder = folder
        self.settings = settings
        self.patterns: dict[str, InfrastructurePattern] = {}
        """By id, oldest first; so are healings."""
        self.healings: dict[str, SelfHealingAction] = {}
        self.parts: dict[str, bytes] = {}
        """States by the name of what they are of."""
        self.notes: list[str] = []
        """What could not be read, in words."""
        self.failure = ""
        """Why the last write failed; empty: it did not."""
        self._wall = wall
        self._remembered = self._kept = False
        self._files: dict[str, Any] = {}  # Any: JSON

    # ---- reading ------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Read what an earlier process left. Never raises."""
        found = self._read(PATTERNS, lambda raw: msgspec.json.decode(raw, type=_Patterns))
        if found is not None:
            self.patterns = {pattern.id: pattern for pattern in found.patterns}
            self.healings = {healing.id: healing for healing in found.healings}
        states = self._read(STATES, lambda raw: msgspec.msgpack.decode(raw, type=_States))
        if states is not None:
            self.parts = states.parts
        try:
            for draft in self.folder.glob(".*.draft"):  # of a process that ended while it wrote
                draft.unlink()
        except OSError as error:
            self.notes.append(f"{self.folder}: {_reason(error)}")

    def _read(self, name: str, decode: Callable[[bytes], T]) -> T | None:
        path = self.folder / name
        try:
            found = decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            self.notes.append(f"{path}: {_reason(error)}; begun anew")
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._set_aside(path, str(error))
            return None
        version = getattr(found, "version", None)
        if version != VERSION:
            self._set_aside(path, f"it has version {version}, and this amaru reads {VERSION}")
            return None
        return found

    def _set_aside(self, path: Path, why: str) -> None:
        aside = path.with_name(f"{path.name}.unread-{_stamp(self._wall())}")
        try:
            path.replace(aside)
            self.notes.append(f"{path}: {why}; set aside as {aside.name}, and begun anew")
        except OSError as error:
            self.notes.append(f"{path}: {why}; begun anew, and it will be overwritten ({_reason(error)})")

    # ---- remembering --------------------------------------------------------------------------------------------

    def remember(self, what: InfrastructurePattern | SelfHealingAction) -> None:
        """Keep a pattern or healing, in place of what was kept under its id."""
        if isinstance(what, InfrastructurePattern):
            _put(self.patterns, what.id, what)
        else:
            _put(self.healings, what.id, what)
        self._remembered = True

    def keep(self, part: str, state: bytes) -> None:
        """Keep the state of one part."""
        if self.parts.get(part) != state:
            self.parts[part] = state
            self._kept = True

    def export(self, kind: str, at: float, document: Any) -> str:  # Any: JSON
        """Have ``document`` written as ``<kind>_<time>.json`` with the next draft; its name."""
        name = f"{kind}_{_stamp(at)}.json"
        self._files[name] = document
        return name

    def draft(self, *, states: bool) -> Draft | None:
        """What is new since the last draft; ``None``: nothing. ``states``: with the states of the parts."""
        parts = dict(self.parts) if states and self._kept else None
        if not self._remembered and parts is None and not self._files:
            return None
        now = self._wall()
        self._forget(now)
        made = Draft(
            now, list(self.patterns.values()), list(self.healings.values()), parts, self._files, self._remembered
        )
        self._remembered, self._files = False, {}
        self._kept = self._kept and parts is None
        return made

    def _forget(self, now: float) -> None:
        oldest = now - self.settings.history_days * DAY_S
        for kept in (self.patterns, self.healings):
            for id in [id for id, what in kept.items() if (what.ended_at or what.at) < oldest]:
                del kept[id]

    # ---- writing ------------------------------------------------------------------------------------------------

    def write(self, draft: Draft) -> None:
        """Write a draft, and remove what is beyond retention. Never raises."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if draft.remembered:
                content = _Patterns(VERSION, draft.at, draft.patterns, draft.healings)
                write_whole(self.folder / PATTERNS, msgspec.json.format(msgspec.json.encode(content), indent=1))
            if draft.parts is not None:
                write_whole(self.folder / STATES, msgspec.msgpack.encode(_States(VERSION, draft.at, draft.parts)))
            for name, document in draft.files.items():
                write_whole(self.folder / name, msgspec.json.format(msgspec.json.encode(document), indent=2))
            if draft.files:
                self._retain(draft.at)
            self.failure = ""
        except OSError as error:
            self.failure = f"{self.folder}: {_reason(error)}"

    def put_back(self, draft: Draft) -> None:
        """Have what could not be written tried again with the next draft."""
        self._remembered = self._remembered or draft.remembered
        self._kept = self._kept or draft.parts is not None
        self._files = {**draft.files, **self._files}

    def _retain(self, now: float) -> None:
        dated = [(found[0], path) for path in self.folder.iterdir() if (found := _DATED.search(path.name))]
        oldest = _stamp(now - self.settings.days * DAY_S)
        for place, (stamp, path) in enumerate(sorted(dated, reverse=True)):
            if place >= self.settings.files or stamp < oldest:
                path.unlink(missing_ok=True)


def read_history(folder: Path) -> tuple[list[InfrastructurePattern], list[SelfHealingAction]]:
    """What a folder remembers, without changing it.

    Raises
    ------
    OSError
        It cannot be read; ``FileNotFoundError``: nothing was ever remembered there.
    ValueError
        It holds something else.
    """
    found = msgspec.json.decode((folder / PATTERNS).read_bytes(), type=_Patterns)
    if found.version != VERSION:
        raise ValueError(f"version {found.version}, and this amaru reads {VERSION}")
    return found.patterns, found.healings


def _put(kept: dict[str, T], id: str, what: T) -> None:
    kept[id] = what
    if len(kept) > MOST:
        del kept[next(iter(kept))]


def _stamp(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y%m%dT%H%M%SZ")


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
