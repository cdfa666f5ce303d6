"""Fetches keys from where the file says they are: the environment, or files. No value ever reaches a message."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from amaru.accounts.keys import hash_key
from amaru.config.fields import KeyReference
from amaru.config.supply import ProviderSettings
from amaru.files.problems import Loc, Problem, looks_secret, shown

_MAX_FILE_BYTES = 1024 * 1024
_MIN_CALLER_KEY_CHARACTERS = 16
"""A key's hash is only as hard to reverse as its key is to guess (see ``accounts/keys.py``)."""

_ENV_IN_TEXT = re.compile(r"\{env:([^}]*)\}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_CREDENTIAL_HEADER = re.compile(r"(?i)^(proxy-)?authorization$|cookie$|(^|-)(key|token|secret|password)$")
_OWN_HEADERS = re.compile(
    r"(?i)host|content-length|content-type|transfer-encoding|connection|keep-alive|te|trailer|upgrade|expect"
    r"|accept-encoding|proxy-connection"
)
"""Headers that frame the message or tell how to read it; the transport writes them."""


class Secrets:
    """Reads keys, collects what could not be read, and remembers the files so that they can be watched."""

    def __init__(self, directory: Path, env: Mapping[str, str]) -> None:
        self.directory = directory
        self.env = env
        self.problems: list[Problem] = []
        self.files: dict[Path, bytes] = {}
        """Digest of each file that was read."""

    def provider_key(self, loc: Loc, provider: ProviderSettings) -> SecretStr | None:
        """The key to present to a provider, ``None`` where it needs none or its reading failed."""
        return self.from_either(loc, "key", provider.key_env, provider.key_file)

    def from_either(self, loc: Loc, name: str, env: str | None, file: str | None) -> SecretStr | None:
        """What the fields ``NAME_env`` and ``NAME_file`` lead to; ``None`` where neither is given or reading failed."""
        if env is not None and file is not None:
            self._problem((*loc, f"{name}_file"), f"{name}_env and {name}_file are both given", "keep one of the two")
            return None
        if env is not None:
            return self._from_env((*loc, f"{name}_env"), env)
        return None if file is None else self._from_file((*loc, f"{name}_file"), file)

    def url(self, loc: Loc, template: str) -> str:
        """A URL with its variables filled in, each as a part of it that cannot end early."""
        return _ENV_IN_TEXT.sub(lambda match: quote(self._value(loc, match), safe=""), template)

    def caller_key_hash(self, loc: Loc, reference: KeyReference) -> str | None:
        """Hex SHA-256 of a key that callers present."""
        given = [name for name in ("sha256", "env", "file") if getattr(reference, name) is not None]
        if len(given) != 1:
            what = "names no key" if not given else f"{' and '.join(given)} are given"
            self._problem(loc, what, "write exactly one of sha256, env and file")
            return None
        if reference.sha256 is not None:
            return reference.sha256.lower()
        if reference.env is not None:
            key, at = self._from_env((*loc, "env"), reference.env), (*loc, "env")
        else:
            key, at = self._from_file((*loc, "file"), reference.file or ""), (*loc, "file")
        if key is None:
            return None
        if len(key.get_secret_value()) < _MIN_CALLER_KEY_CHARACTERS:
            what = f"the key is shorter than {_MIN_CALLER_KEY_CHARACTERS} characters, and could be guessed"
            self._problem(at, what, "make a random one: `amaru init` does")
        return hash_key(key.get_secret_value())

    def headers(self, loc: Loc, headers: Mapping[str, str]) -> dict[str, SecretStr]:
        """Extra headers with their variables filled in; names in lower case."""
        filled: dict[str, SecretStr] = {}
        for name, template in headers.items():
            at = (*loc, name)
            if not _HEADER_NAME.fullmatch(name):
                self._problem(at, "not a header's name", "letters, digits and dashes")
            elif _OWN_HEADERS.fullmatch(name):
                self._problem(at, "amaru writes this header itself", "remove the line")
            elif name.lower() in filled:
                self._problem(at, "written twice", "header names ignore case; remove one of the two")
            elif "{env:" not in template and (_CREDENTIAL_HEADER.search(name) or looks_secret(template)):
                self._problem(at, "keys do not stand in this file", 'write "{env:NAME}", or use key_env')
            else:
                value = _ENV_IN_TEXT.sub(partial(self._value, at), template)
                if not value.isprintable() or not value.isascii():
                    self._problem(at, "holds a character that no header may", "printable ASCII only")
                filled[name.lower()] = SecretStr(value.strip())
        return filled

    def certificate_file(self, loc: Loc, name: str) -> Path:
        """The path of a PEM file, which must be readable."""
        path = self.directory / name
        content = self._read(loc, path, name)
        if content is not None and b"-----BEGIN CERTIFICATE-----" not in content:
            self._problem(loc, f"holds no certificate: {shown(name)}", "name a PEM file")
        return path

    def _value(self, loc: Loc, match: re.Match[str]) -> str:
        secret = self._from_env(loc, match.group(1))
        return secret.get_secret_value() if secret else ""

    def _from_env(self, loc: Loc, name: str) -> SecretStr | None:
        value = self.env.get(name, "").strip()
        if not value:
            # A key pasted in place of a variable's name passes for a name; only what reads like a name is quoted.
            quoted = f" {name}" if re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", name) and not looks_secret(name) else ""
            state = "is set, but empty" if name in self.env else "is not set"
            remedy = f"export{quoted}=…" if quoted else "write a variable's name here, never a key"
            self._problem(loc, f"environment variable{quoted} {state}", remedy)
            return None
        return self._clean(loc, value)

    def _from_file(self, loc: Loc, name: str) -> SecretStr | None:
        content = self._read(loc, self.directory / name, name)
        if content is None:
            return None
        try:
            value = content.decode().strip()
        except UnicodeDecodeError:
            value = ""
        if not value:
            self._problem(loc, f"holds no key: {shown(name)}", "put the key in it, on one line")
            return None
        return self._clean(loc, value)

    def _clean(self, loc: Loc, value: str) -> SecretStr | None:
        """A key travels in a header: printable ASCII in one word, or a line break could smuggle a header in."""
        if not re.fullmatch(r"[!-~]+", value):
            self._problem(loc, "the key holds a space, a line break or a letter beyond ASCII", "put only the key there")
            return None
        return SecretStr(value)

    def _read(self, loc: Loc, path: Path, name: str) -> bytes | None:
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_FILE_BYTES)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else "not a path"
            self._problem(loc, f"cannot be read ({why}): {shown(name)}", "relative paths start at this file's folder")
            # An unreadable file is watched too: its arrival is the repair.
            self.files[path] = b""
            return None
        self.files[path] = hashlib.sha256(content).digest()
        return content

    def _problem(self, loc: Loc, what: str, remedy: str) -> None:
        self.problems.append(Problem(loc, what, remedy))
