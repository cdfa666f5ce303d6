"""Versioned artifacts: trained policies on any fsspec URL, each with its digest, and a pointer to the promoted one.

Under the store's URL::

    blobs/<blake2b of the state>      the policy's state; equal states share one
    manifests/v1.json, v2.json, …     what it is, what it was trained on, by which code, how it scored
    promoted.json                     which version gateways load, and all that were promoted before

They are written in that order, each whole or not at all (see ``artifact_files``), so that a crash leaves at worst a
blob that no manifest names, which harms nobody. Nothing is ever changed but the pointer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from amaru.errors import ArtifactError
from amaru.learning.artifact_files import Files
from amaru.learning.artifact_manifest import (
    LONGEST_MANIFEST,
    LONGEST_NOTE,
    MANIFEST_FORMAT,
    NO_POINTER,
    POLICY_NAME,
    Manifest,
    Pointer,
    Score,
    Trained,
    code_version,
    decode_manifest,
    decode_pointer,
    digest_of,
    encode_manifest,
    encode_pointer,
)
from amaru.learning.artifact_reference import LATEST, PROMOTED, VERSION, Reference, parse_reference

if TYPE_CHECKING:
    from amaru.routing.policies import Policy

__all__ = [
    "Artifact",
    "ArtifactStore",
    "Listed",
    "Moved",
    "Published",
    "Reference",
    "Score",
    "Trained",
    "parse_reference",
]

LARGEST_STATE = 256 * 2**20
"""Bytes. A gateway holds the old and the new state in memory while it swaps."""

_POINTER = "promoted.json"
_MANIFEST_FILE = re.compile(r"v([1-9][0-9]{0,8})\.json")
_NAMED = 12
"""Versions that a message lists."""


class Artifact(NamedTuple):
    """A policy as it was published, its digest verified. ``source`` is its URL@vN as messages may show it."""

    policy: str
    knobs: dict[str, Any]  # Any: JSON, whose fields are the policy's own
    state: bytes
    manifest: Manifest
    source: str

    def make(self) -> Policy:
        """The policy with its knobs and what it had learned. Raises ``ArtifactError`` where this amaru cannot."""
        # Imported here: compiled kernels come with it, which listing and promoting can do without.
        from amaru.routing.policies import make_policy

        try:
            policy = make_policy(self.policy, **self.knobs)
            policy.restore(self.state)
        except (TypeError, ValueError) as error:
            made_by = self.manifest.code.amaru
            raise ArtifactError(
                f"{self.source}: not a policy of this amaru (published by {made_by}): {error} — train and publish anew"
            ) from None
        return policy


class Published(NamedTuple):
    """What ``publish`` did: the version, and whether it is new or was there with the same content."""

    version: str
    new: bool


class Moved(NamedTuple):
    """What ``promote`` or ``rollback`` did: from which version (``None``: none was promoted) to which."""

    before: str | None
    now: str


class Listed(NamedTuple):
    """A version in a store; where its manifest cannot be used, ``problem`` says why."""

    version: str
    promoted: bool
    manifest: Manifest | None
    problem: str


class ArtifactStore:
    """The artifacts under an fsspec URL (``file://`` or a folder, ``s3://``, ``gs://``, ``memory://``).

    ``options`` go to the file system (``endpoint_url``, ``profile``, …); ``clock`` gives the time in UTC. Nothing is
    read or written before it is asked for. Every method raises ``ArtifactError``, and waits for the store: call it in
    a thread where an event loop runs.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        **options: Any,  # Any: whatever the file system takes
    ) -> None:
        self._files = Files(url, options)
        self._clock = clock

    @property
    def url(self) -> str:
        """The store's URL as messages may show it: without credentials."""
        return self._files.shown

    def publish(
        self,
        policy: str,
        state: bytes,
        *,
        knobs: Mapping[str, object] | None = None,
        trained: Trained | None = None,
        score: Score | None = None,
        parent: str | None = None,
        note: str = "",
    ) -> Published:
        """Keeps a policy as the next version; where a version holds the same policy, knobs and state, says which.

        ``knobs`` must be JSON. ``parent`` is the version that training began from. What was published is not
        promoted.
        """
        kept = _checked(policy, state, knobs or {}, note)
        if score and not all(map(math.isfinite, (n for n in (score.value, score.low, score.high) if n is not None))):
            raise ArtifactError(f"the score of {policy} is not finite: {score.value} [{score.low}, {score.high}]")
        digest = digest_of(state)
        versions = self.versions()
        if parent is not None and parent not in versions:
            raise ArtifactError(f"{self.url}: the parent {parent!r} is unknown: {self._there_is(versions)}")
        self._write_blob(_blob(digest), state)
        taken = [promotion.version for promotion in self._pointer().history]
        for listed in self.list():
            if listed.manifest and listed.manifest.same_policy(policy, kept, digest):
                return Published(listed.version, new=False)
            taken.append(listed.version)
        number = 1 + max(map(_number, taken), default=0)
        while True:
            version = f"v{number}"
            manifest = Manifest(
                format=MANIFEST_FORMAT,
                version=version,
                created=self._now(),
                policy=policy,
                knobs=kept,
                digest=digest,
                size=len(state),
                code=code_version(),
                trained=trained or Trained(),
                score=score,
                parent=parent,
                note=note,
            )
            if self._files.create(_manifest(version), _encoded(manifest)):
                return Published(version, new=True)
            # Somebody else took this number meanwhile, perhaps for the same.
            if self._try_manifest(version).same_policy(policy, kept, digest):
                return Published(version, new=False)
            number += 1

    def versions(self) -> tuple[str, ...]:
        """All versions, oldest first."""
        names = [entry.name for entry in self._files.entries("manifests")]
        numbers = sorted(int(match[1]) for match in map(_MANIFEST_FILE.fullmatch, names) if match)
        return tuple(f"v{number}" for number in numbers)

    def list(self) -> tuple[Listed, ...]:
        """All versions with their manifests, oldest first; one that cannot be read does not hide the others."""
        versions = self.versions()
        promoted = self.promoted()
        contents = self._files.read_all([_manifest(version) for version in versions], most=LONGEST_MANIFEST)
        listed = []
        for version, content in zip(versions, contents, strict=True):
            manifest, problem = None, ""
            try:
                if isinstance(content, ArtifactError):
                    raise content
                manifest = self._decoded(version, content)
            except ArtifactError as error:
                problem = str(error)
            listed.append(Listed(version, version == promoted, manifest, problem))
        return tuple(listed)

    def promoted(self) -> str | None:
        """The version that is promoted; ``None`` where none is."""
        return self._pointer().version or None

    def promote(self, version: str) -> Moved:
        """Makes this the version that ``promoted`` means, once it has been read and found whole."""
        wanted = self.load(version).manifest.version

        def change(content: bytes | None) -> tuple[Pointer, Pointer]:
            pointer = self._decoded_pointer(content)
            return pointer, pointer if pointer.version == wanted else pointer.promoted(wanted, self._now())

        return self._move(change)

    def rollback(self) -> Moved:
        """Makes the version that was promoted before the present one the promoted one again; again, and so on back.

        The version it leads to is read first, and refused where it is not whole.
        """

        def change(content: bytes | None) -> tuple[Pointer, Pointer]:
            pointer = self._decoded_pointer(content)
            in_force = pointer.in_force()
            if not in_force:
                raise ArtifactError(f"{self.url}: nothing is promoted, so there is nothing to roll back")
            if len(in_force) < 2:
                raise ArtifactError(
                    f"{self.url}: {in_force[0]} is the first that was promoted; there is none before it"
                    f" — promote another: {self._there_is(self.versions())}"
                )
            self.load(in_force[-2])
            return pointer, pointer.rolled_back(self._now())

        return self._move(change)

    def manifest(self, version: str) -> Manifest:
        """The manifest of ``vN``, ``promoted`` or ``latest``."""
        return self._try_manifest(self.resolve(version))

    def load(self, version: str = PROMOTED) -> Artifact:
        """The artifact of ``vN``, ``promoted`` or ``latest``, whose state has the digest that its manifest names."""
        manifest = self.manifest(version)
        name = _blob(manifest.digest)
        state = self._files.read(name, most=LARGEST_STATE)
        if state is None:
            raise ArtifactError(
                f"{self._files.where(name)}: the state of {manifest.version} is gone"
                f" — restore that file from a copy, publish the policy again, or load another version"
            )
        found = digest_of(state)
        if found != manifest.digest:
            raise ArtifactError(
                f"{self._files.where(name)}: the state of {manifest.version} is damaged: digest expected"
                f" {manifest.digest}, found {found} ({len(state):,} bytes, published with {manifest.size:,})"
                " — publish the same policy again, which repairs it, or load another version"
            )
        source = f"{self.url}@{manifest.version}"
        return Artifact(manifest.policy, manifest.knobs, state, manifest, source)

    def resolve(self, version: str) -> str:
        """``vN`` for ``promoted``, ``latest`` and ``vN``; refuses what is not there, and says what is."""
        if version == PROMOTED:
            promoted = self.promoted()
            if promoted is None:
                raise ArtifactError(
                    f"{self.url}: nothing is promoted: {self._there_is(self.versions())}"
                    f" — amaru artifacts promote {self.url} VERSION"
                )
            return promoted
        versions = self.versions()
        if version == LATEST and versions:
            return versions[-1]
        if version not in versions:
            raise ArtifactError(f"{self.url}: no version {version[:40]!r}: {self._there_is(versions)}")
        return version

    def _move(self, change: Callable[[bytes | None], tuple[Pointer, Pointer]]) -> Moved:
        moved: list[Moved] = []

        def apply(content: bytes | None) -> bytes | None:
            before, after = change(content)
            moved[:] = [Moved(before.version or None, after.version)]
            return None if after is before else encode_pointer(after)

        self._files.update(_POINTER, apply, most=LONGEST_MANIFEST)
        return moved[0]

    def _write_blob(self, name: str, state: bytes) -> None:
        # Where the file is there with other bytes than its name says, it is damaged, and these are right.
        if not self._files.create(name, state):
            self._files.replace(name, state)

    def _try_manifest(self, version: str) -> Manifest:
        content = self._files.read(_manifest(version), most=LONGEST_MANIFEST)
        if content is None:
            raise ArtifactError(
                f"{self._files.where(_manifest(version))}: the manifest of {version} is gone"
                f": {self._there_is(self.versions())}"
            )
        return self._decoded(version, content)

    def _decoded(self, version: str, content: bytes) -> Manifest:
        where = self._files.where(_manifest(version))
        manifest = decode_manifest(content, where)
        if manifest.version != version:
            raise ArtifactError(f"{where}: speaks of {manifest.version} — files were renamed; restore their names")
        return manifest

    def _pointer(self) -> Pointer:
        return self._decoded_pointer(self._files.read(_POINTER, most=LONGEST_MANIFEST))

    def _decoded_pointer(self, content: bytes | None) -> Pointer:
        return NO_POINTER if content is None else decode_pointer(content, self._files.where(_POINTER))

    def _now(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

    def _there_is(self, versions: Sequence[str]) -> str:
        if not versions:
            return "nothing is published there"
        few = versions if len(versions) <= _NAMED else (versions[0], "…", *versions[-_NAMED + 2 :])
        promoted = self.promoted()
        pointed = f"{promoted} is promoted" if promoted else "none is promoted"
        return f"there {'is' if len(versions) == 1 else 'are'} {', '.join(few)} ({pointed})"


def _checked(policy: str, state: bytes, knobs: Mapping[str, object], note: str) -> dict[str, Any]:  # Any: JSON
    """The knobs as JSON gives them back; raises where any of it cannot be published."""
    if not re.fullmatch(POLICY_NAME, policy):
        raise ArtifactError(f"policy {policy[:80]!r}: not a policy's name — for example thompson")
    if len(state) > LARGEST_STATE:
        raise ArtifactError(
            f"the state of {policy} has {len(state):,} bytes, more than {LARGEST_STATE:,}: a gateway holds two of"
            " them while it swaps — train with fewer classes of workloads"
        )
    if len(note) > LONGEST_NOTE:
        raise ArtifactError(f"the note has {len(note):,} characters, more than {LONGEST_NOTE:,} — shorten it")
    try:
        # Not msgspec, which writes null for NaN.
        return cast("dict[str, Any]", json.loads(json.dumps(dict(knobs), allow_nan=False)))  # Any: as above
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"the knobs of {policy} are not a JSON object of finite numbers: {error}") from None


def _encoded(manifest: Manifest) -> bytes:
    content = encode_manifest(manifest)
    if len(content) > LONGEST_MANIFEST:
        raise ArtifactError(f"the manifest would have {len(content):,} bytes, more than {LONGEST_MANIFEST:,}")
    return content


def _number(version: str) -> int:
    match = VERSION.fullmatch(version)
    return int(match[1]) if match else 0


def _blob(digest: str) -> str:
    return f"blobs/{digest.removeprefix('blake2b:')}"


def _manifest(version: str) -> str:
    return f"manifests/{version}.json"
