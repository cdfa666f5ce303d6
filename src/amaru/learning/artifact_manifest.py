"""What is written about an artifact: its manifest, and the pointer to the promoted one.

Both are JSON for people to read. A manifest seals itself: ``seal`` is a digest of everything else in it, so that a
hand that changed a knob shows as much as a truncated file does. Fields that this amaru does not know are kept under
the seal and otherwise ignored; another number in ``format`` is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import msgspec

from amaru.errors import ArtifactError

MANIFEST_FORMAT = "amaru-artifact-1"
POINTER_FORMAT = "amaru-promoted-1"
LONGEST_MANIFEST = 2**20
"""Bytes: a manifest is a page of text."""
LONGEST_NOTE = 2_000
POLICY_NAME = "^[a-z][a-z0-9_]{0,63}$"
KEPT_PROMOTIONS = 1_000
"""Promotions that the pointer remembers; older ones can no longer be rolled back to."""

_Version = Annotated[str, msgspec.Meta(pattern="^v[1-9][0-9]{0,8}$")]
_Digest = Annotated[str, msgspec.Meta(pattern="^blake2b:[0-9a-f]{64}$")]  # becomes a path: nothing else may stand here
_FORMAT = re.compile(r"^(?P<kind>amaru-[a-z]+)-(?P<number>[0-9]{1,9})$")


class Trained(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a policy was trained on. ``digest`` is that of the data set, or of the file that training wrote."""

    worlds: str = ""
    dataset: str = ""
    digest: str = ""
    episodes: int | None = None
    seed: int | None = None


class Score(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A figure, its 95 % interval where it has one, and the command that measured it."""

    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    worlds: str = ""
    command: str = ""


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """The code that made it: amaru's version, and a digest of the source as it was installed."""

    amaru: str
    source: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All about one version. ``created`` is ISO 8601 in UTC; ``size`` in bytes; ``digest`` is of the state."""

    format: str
    version: _Version
    created: str
    policy: Annotated[str, msgspec.Meta(pattern=POLICY_NAME)]
    knobs: dict[str, Any]  # Any: JSON, whose fields are the policy's own
    digest: _Digest
    size: int
    code: Code
    trained: Trained = Trained()
    score: Score | None = None
    parent: str | None = None
    note: str = ""

    def same_policy(self, policy: str, knobs: Mapping[str, object], digest: str) -> bool:
        """Whether it holds exactly this."""
        return (self.policy, self.digest) == (policy, digest) and _canonical(self.knobs) == _canonical(dict(knobs))


class Promotion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A version that was promoted at a time, and when that was taken back, if it was."""

    version: _Version
    at: str
    rolled_back: str | None = None


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """Which version is promoted, and all that were, oldest first. The last that was not taken back is in force."""

    format: str
    version: str
    history: tuple[Promotion, ...]

    def in_force(self) -> list[str]:
        """The promoted version last, before it those that a rollback leads to."""
        return [promotion.version for promotion in self.history if promotion.rolled_back is None]

    def promoted(self, version: str, at: str) -> Pointer:
        """The pointer after a promotion."""
        history = (*self.history, Promotion(version=version, at=at))[-KEPT_PROMOTIONS:]
        return Pointer(format=POINTER_FORMAT, version=version, history=history)

    def rolled_back(self, at: str) -> Pointer:
        """The pointer after a rollback; there must be two in force."""
        last = max(place for place, promotion in enumerate(self.history) if promotion.rolled_back is None)
        history = list(self.history)
        history[last] = msgspec.structs.replace(history[last], rolled_back=at)
        return Pointer(format=POINTER_FORMAT, version=self.in_force()[-2], history=tuple(history))


NO_POINTER = Pointer(format=POINTER_FORMAT, version="", history=())


def digest_of(content: bytes) -> str:
    """``blake2b:`` and 64 hexadecimal digits (RFC 7693, 256 bits)."""
    return "blake2b:" + hashlib.blake2b(content, digest_size=32).hexdigest()


@cache
def code_version() -> Code:
    """The code that runs: amaru's version, and a digest over its source files, their names and contents."""
    root = Path(__file__).parents[1]
    source = hashlib.blake2b(digest_size=32)
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        source.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        source.update(content)
    try:
        released = version("amaru")
    except PackageNotFoundError:  # used from a checkout that was not installed
        released = "unknown"
    return Code(amaru=released, source="blake2b:" + source.hexdigest())


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as it is stored, with its seal."""
    fields = msgspec.json.decode(msgspec.json.encode(manifest))
    return msgspec.json.format(msgspec.json.encode(fields | {"seal": _seal(fields)}), indent=2) + b"\n"


def decode_manifest(content: bytes, where: str) -> Manifest:
    """Reads a manifest; ``where`` is its URL as messages may show it. Raises ``ArtifactError``."""
    fields = _fields(content, where, MANIFEST_FORMAT)
    written, found = fields.pop("seal", None), _seal(fields)
    if written != found:
        raise ArtifactError(
            f"{where}: the manifest is not as it was published: seal {written or 'missing'}, expected {found}"
            " — restore it from a copy, or publish the policy again"
        )
    try:
        return msgspec.convert(fields, Manifest)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"{where}: not a manifest: {error} — publish the policy again") from None


def encode_pointer(pointer: Pointer) -> bytes:
    """The pointer as it is stored."""
    return msgspec.json.format(msgspec.json.encode(pointer), indent=2) + b"\n"


def decode_pointer(content: bytes, where: str) -> Pointer:
    """Reads the pointer. Raises ``ArtifactError``."""
    try:
        pointer = msgspec.convert(_fields(content, where, POINTER_FORMAT), Pointer)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"{where}: not a pointer: {error} — remove the file, and promote a version again") from None
    if not pointer.in_force() or pointer.in_force()[-1] != pointer.version:
        raise ArtifactError(
            f"{where}: says that {pointer.version} is promoted, which its history does not"
            " — remove the file, and promote a version again"
        )
    return pointer


def _fields(content: bytes, where: str, known: str) -> dict[str, Any]:  # Any: JSON
    try:
        fields = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(
            f"{where}: not JSON, or cut short: {error} ({len(content):,} bytes)"
            " — restore it from a copy, or remove it and publish again"
        ) from None
    named = fields.get("format") if isinstance(fields, dict) else None
    if not isinstance(fields, dict) or not isinstance(named, str):
        raise ArtifactError(f"{where}: has no `format`, so amaru did not write it — is this the right URL?")
    if named == known:
        return fields
    theirs, ours = _FORMAT.match(named), _FORMAT.match(known)
    if theirs and ours and theirs["kind"] == ours["kind"] and int(theirs["number"]) > int(ours["number"]):
        raise ArtifactError(f"{where}: written by a newer amaru: {named}; this one reads {known} — upgrade amaru")
    raise ArtifactError(f"{where}: format {named[:100]!r}, not {known} — is this the right URL?")


def _seal(fields: dict[str, Any]) -> str:  # Any: JSON
    return digest_of(_canonical(fields))


def _canonical(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")
