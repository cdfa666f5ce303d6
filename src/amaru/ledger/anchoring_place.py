"""A target as ``scheduler.yaml`` describes it, with the files and variables that it names. No secret is ever shown."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import SecretStr

from amaru.errors import LedgerError
from amaru.files.problems import Loc, Problem, looks_secret, shown
from amaru.http1.posting import LIMIT_S
from amaru.ledger.anchoring_models import TargetModel
from amaru.ledger.anchoring_targets import GpgFile, Posted, Target, TimeStamping
from amaru.ledger.posting import require_url
from amaru.ledger.timestamps import Roots, parse_roots

MAX_FILE_BYTES = 4 * 1024 * 1024
GPG_LIMIT_S = 60.0
_FILLED = re.compile(r"\{(env|file):([^}]*)\}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")  # RFC 9110, section 5.6.2
_CREDENTIAL = re.compile(r"(?i)^(proxy-)?authorization$|cookie$|(^|-)(key|token|secret|password)$")
_OWN_HEADERS = re.compile(r"(?i)host|content-length|content-type|transfer-encoding|connection|accept|idempotency-key")
_FIELDS = {
    "timestamp": ({"url", "roots"}, {"headers", "ca_file", "limit_s"}),
    "gpg": ({"folder"}, {"signer", "home", "limit_s"}),
    "post": ({"url"}, {"headers", "ca_file", "limit_s"}),
}
"""Kind → the fields that it needs, and those that it may have."""


class Files:
    """Reads what the file names, collects what is wrong, and remembers the files so that they can be watched."""

    def __init__(self, directory: Path, env: Mapping[str, str]) -> None:
        self.directory = directory
        self.env = env
        self.problems: list[Problem] = []
        self.read: dict[Path, bytes] = {}
        """Digest of each file that was read; empty where that failed: its arrival is the repair."""

    @property
    def locs(self) -> set[Loc]:
        """Where the problems are."""
        return {problem.loc for problem in self.problems}

    def problem(self, loc: Loc, what: str, remedy: str) -> None:
        """Something is wrong."""
        self.problems.append(Problem(loc, what, remedy))

    def content(self, loc: Loc, name: str) -> bytes | None:
        """A file's bytes; ``None``, and a problem: it cannot be read."""
        path = self.directory / name
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else "") or "not a path"
            self.problem(loc, f"cannot be read ({why}): {shown(name)}", "relative paths start at this file's folder")
            self.read[path] = b""
            return None
        self.read[path] = hashlib.sha256(content).digest()
        return content

    def certificates(self, loc: Loc, name: str) -> Roots:
        """The certificates of a PEM file; none, and a problem."""
        content = self.content(loc, name)
        if content is None:
            return ()
        try:
            return parse_roots(content)
        except LedgerError as error:
            self.problem(loc, f"{error}: {shown(name)}", "name a PEM file")
            return ()

    def headers(self, loc: Loc, headers: Mapping[str, str]) -> dict[str, SecretStr]:
        """Headers with variables and files filled in."""
        filled: dict[str, SecretStr] = {}
        for name, template in headers.items():
            at = (*loc, name)
            if not _HEADER_NAME.fullmatch(name):
                self.problem(at, "not a header's name", "letters, digits and dashes")
            elif _OWN_HEADERS.fullmatch(name):
                self.problem(at, "amaru writes this header itself", "remove the line")
            elif name.lower() in filled:
                self.problem(at, "written twice", "header names ignore case; remove one of the two")
            elif not _FILLED.search(template) and (_CREDENTIAL.search(name) or looks_secret(template)):
                self.problem(at, "keys do not stand in this file", 'write "{env:NAME}" or "{file:PATH}"')
            else:
                value = _FILLED.sub(lambda match, at=at: self._filled(at, match[1], match[2]), template)  # type: ignore[misc]  # mypy cannot type a lambda's default
                if not (value.isascii() and value.isprintable()):
                    self.problem(at, "holds a character that no header may", "printable ASCII only")
                filled[name.lower()] = SecretStr(value.strip())
        return filled

    def _filled(self, loc: Loc, source: str, name: str) -> str:
        if source == "file":
            return (self.content(loc, name) or b"").decode("utf-8", "replace").strip()
        value = self.env.get(name, "").strip()
        if not value:
            # A key pasted in place of a variable's name passes for a name; only what reads like a name is quoted.
            quoted = f" {name}" if re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", name) and not looks_secret(name) else ""
            self.problem(loc, f"environment variable{quoted} is not set", "write a variable's name here, and export it")
        return value


def target_of(loc: Loc, model: TargetModel, files: Files) -> Target | None:
    """The target that is described; ``None``, and problems of ``files``: there is none."""
    before = len(files.problems)
    needed, more = _FIELDS[model.kind]
    for name in sorted(needed):
        if getattr(model, name) is None:
            files.problem((*loc, name), "missing", f"a target of kind {model.kind} needs it")
    for name in sorted(model.model_fields_set - needed - more - {"kind"}):
        if getattr(model, name):
            files.problem((*loc, name), f"a target of kind {model.kind} has no such field", "remove the line")
    made = _MAKERS[model.kind](loc, model, files)
    return made if len(files.problems) == before else None


def _timestamp(loc: Loc, model: TargetModel, files: Files) -> Target:
    roots = files.certificates((*loc, "roots"), model.roots) if model.roots is not None else ()
    url, headers, ca_file, limit_s = _http(loc, model, files)
    return TimeStamping(url, roots, headers, ca_file, limit_s)


def _gpg(_: Loc, model: TargetModel, files: Files) -> Target:
    home = files.directory / model.home if model.home is not None else None
    return GpgFile(files.directory / (model.folder or ""), model.signer, home, model.limit_s or GPG_LIMIT_S)


def _post(loc: Loc, model: TargetModel, files: Files) -> Target:
    return Posted(*_http(loc, model, files))


def _http(loc: Loc, model: TargetModel, files: Files) -> tuple[str, dict[str, SecretStr], Path | None, float]:
    if model.url is not None:
        try:
            require_url(model.url)
        except LedgerError as error:
            files.problem((*loc, "url"), str(error), "write it with https://")
    if model.ca_file is not None:
        files.certificates((*loc, "ca_file"), model.ca_file)
    ca_file = files.directory / model.ca_file if model.ca_file is not None else None
    headers = files.headers((*loc, "headers"), model.headers)
    return model.url or "", headers, ca_file, model.limit_s or LIMIT_S


_MAKERS: dict[str, Callable[[Loc, TargetModel, Files], Target]] = {
    "timestamp": _timestamp,
    "gpg": _gpg,
    "post": _post,
}
