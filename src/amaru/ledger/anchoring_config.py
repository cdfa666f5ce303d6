"""Reads ``scheduler.yaml``: every mistake with its line, in one go."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from amaru.errors import ConfigError, LedgerError
from amaru.files.document import MAX_BYTES, Document, read_document
from amaru.files.problems import MAX_PROBLEMS, Loc, Problem, suggest
from amaru.files.translate import validate
from amaru.ledger.anchoring_models import NamespaceModel, SchedulerFile
from amaru.ledger.anchoring_pace import INTERVALS_S, Cadence
from amaru.ledger.anchoring_place import Files, target_of
from amaru.ledger.anchoring_state import LineName
from amaru.ledger.anchoring_targets import Target
from amaru.ledger.notes import NoteVerifier
from amaru.ledger.trust import parse_trust

MAX_LINES = 1_000
EXAMPLE = "docs/guides/scheduler.md has one as it should be"


class SourceSettings(msgspec.Struct, frozen=True):
    """A log: its folder or URL, and its public keys."""

    url: str
    verifiers: tuple[NoteVerifier, ...]


class LineSettings(msgspec.Struct, frozen=True):
    """What is anchored how often and where. Equal settings are the same line."""

    name: LineName
    source: SourceSettings
    cadence: Cadence
    target: Target


class SchedulerSettings(msgspec.Struct, frozen=True):
    """What a file says. ``watched`` is it and every file that it names, ``digest`` of all that they hold."""

    path: Path
    state: Path
    host: str
    port: int
    sources: dict[str, SourceSettings]
    lines: tuple[LineSettings, ...]
    watched: tuple[Path, ...]
    digest: bytes


class RefusedScheduler(ConfigError):
    """A file that cannot be used, and what to watch for its repair."""

    def __init__(self, problems: list[str], watched: tuple[Path, ...]) -> None:
        super().__init__(problems)
        self.watched = watched


def load(path: Path, env: Mapping[str, str] = os.environ) -> SchedulerSettings:
    """Read the file. Relative paths in it start at its folder; ``env`` holds what headers name.

    Raises
    ------
    ConfigError
        With every mistake, one line each, in the file's order.
    """
    try:
        with path.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        problem = Problem((), error.strerror or "cannot be read", EXAMPLE)
        raise RefusedScheduler([problem.render(str(path))], (path,)) from None
    document = read_document(content, EXAMPLE)
    problems = list(document.problems)
    files = Files(path.parent, env)
    settings = None
    if document.data or not problems:
        file, _, mistakes = validate(SchedulerFile, document.data)
        problems += mistakes
        if file is not None:
            settings = _Reading(file, files, {problem.loc for problem in mistakes}).settings(path, content)
            problems += files.problems
    watched = (path, *sorted(files.read))
    if problems or settings is None:
        raise RefusedScheduler(_rendered(problems[:MAX_PROBLEMS], document, str(path)), watched)
    return settings


class _Reading:
    """From the models to settings; what is wrong across fields is a problem of ``files``."""

    def __init__(self, file: SchedulerFile, files: Files, refused: set[Loc]) -> None:
        self._file = file
        self._files = files
        self._refused = refused

    def settings(self, path: Path, content: bytes) -> SchedulerSettings:
        file, files = self._file, self._files
        cadences = self._cadences()
        targets = {name: target_of(("targets", name), model, files) for name, model in file.targets.items()}
        sources: dict[str, SourceSettings] = {}
        lines: list[LineSettings] = []
        for name, model in file.namespaces.items():
            source = self._source(name, model)
            twin = next((other for other, known in sources.items() if known.url == source.url), None)
            if twin is not None:
                files.problem(("namespaces", name, "log"), f"{twin} is the same log", "write all its anchors there")
            sources[name] = source
            lines += self._lines(name, model, sources[name], cadences, targets)
        if len(lines) > MAX_LINES:
            files.problem(("namespaces",), f"{len(lines):,} anchors a round, more than {MAX_LINES:,}", "run several")
        digest = hashlib.sha256(content)
        for one, part in sorted(files.read.items()):
            digest.update(os.fsencode(one) + b"\0" + part)
        return SchedulerSettings(
            path=path,
            state=files.directory / file.state,
            host=file.host,
            port=file.port,
            sources=sources,
            lines=tuple(lines),
            watched=(path, *sorted(files.read)),
            digest=digest.digest(),
        )

    def _cadences(self) -> dict[str, Cadence | None]:
        found: dict[str, Cadence | None] = {name: Cadence.of(name, every) for name, every in INTERVALS_S.items()}
        for name, model in self._file.cadences.items():
            interval_s = model.interval_s or INTERVALS_S.get(name)
            if interval_s is None:
                if not any(loc[:2] == ("cadences", name) for loc in self._refused):
                    self._files.problem(("cadences", name), "has no interval", "write interval_s: 900, for example")
                found[name] = None
            else:
                found[name] = Cadence.of(name, interval_s, model.backoff_s)
        return found

    def _source(self, name: str, model: NamespaceModel) -> SourceSettings:
        files, loc = self._files, ("namespaces", name)
        verifiers: list[NoteVerifier] = []
        for place, vkey in enumerate(model.keys):
            try:
                verifiers.append(NoteVerifier.of(vkey))
            except LedgerError as error:
                files.problem((*loc, "keys", place), str(error), "`remembrancer keys` shows a log's")
        if model.trust is not None:
            content = files.content((*loc, "trust"), model.trust)
            if content is not None:
                try:
                    verifiers += parse_trust(content.decode("utf-8", "replace"), where=model.trust).verifiers
                except LedgerError as error:
                    files.problem((*loc, "trust"), str(error), "`remembrancer keys` shows a log's public key")
        if not verifiers and not any(at[:2] == loc for at in (*self._refused, *files.locs)):
            files.problem(loc, "no key of this log is known", "write keys: [NAME+ID+KEY], or trust: FILE")
        scheme, separator, rest = model.log.partition("://")
        url = model.log if separator and scheme != "file" else str(files.directory / (rest if separator else scheme))
        return SourceSettings(url, tuple(dict.fromkeys(verifiers)))

    def _lines(
        self,
        namespace: str,
        model: NamespaceModel,
        source: SourceSettings,
        cadences: Mapping[str, Cadence | None],
        targets: Mapping[str, Target | None],
    ) -> list[LineSettings]:
        files, found = self._files, []
        lost = {loc[1] for loc in self._refused if len(loc) > 1 and loc[0] in ("cadences", "targets")}
        for cadence_name, names in model.anchors.items():
            loc: Loc = ("namespaces", namespace, "anchors", cadence_name)
            if cadence_name not in cadences:
                if cadence_name not in lost:
                    files.problem(loc, "no such cadence", suggest(cadence_name, cadences, "write it under cadences"))
                continue
            for place, name in enumerate(names):
                if name not in targets:
                    if name not in lost:
                        files.problem((*loc, place), f"no such target: {name}", suggest(name, targets, "name one"))
                elif name in names[:place]:
                    files.problem((*loc, place), f"written twice: {name}", "remove one of the two")
                else:
                    cadence, target = cadences[cadence_name], targets[name]
                    if cadence is not None and target is not None:
                        found.append(LineSettings(LineName(namespace, cadence_name, name), source, cadence, target))
        return found


def _rendered(problems: list[Problem], document: Document, file: str) -> list[str]:
    placed: dict[str, int] = {}
    for problem in problems:
        line = problem.line or document.line_of(problem.loc)
        placed.setdefault(replace(problem, line=line).render(file), line or 0)
    return sorted(placed, key=lambda text: placed[text])
