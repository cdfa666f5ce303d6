"""``swarm_final.json``: a trained swarm, its agents' knobs and scores, and what each has learned.

States are small for a few agents and stand in the JSON then (base64). Otherwise they stand in a binary beside it,
which the JSON names with offset, length and digest of each. The binary's own name holds a digest too, so that a crash
between the two files leaves the older pair readable.
"""

from __future__ import annotations

import binascii
import hashlib
import zlib
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from amaru.errors import CheckpointError
from amaru.files.whole import write_whole
from amaru.routing.knobs import knobs_from
from amaru.routing.policies import LEARNED, Policy, make_policy

NAME = "swarm_final"
MAX_INLINE_BYTES = 256 * 1024
"""States that are larger together, packed, stand in a binary."""
MAX_STATE_BYTES = 256 * 1024 * 1024
"""No state of ours is a tenth of it: a file that says otherwise is broken, or means harm."""


class TrainedAgent(msgspec.Struct, frozen=True, kw_only=True):
    """One policy of a swarm."""

    id: int
    policy: str
    knobs: dict[str, float]
    score: float
    """Mean utility of a request lately, in the last training worlds."""
    state: bytes

    def make(self) -> Policy:
        """The policy, as trained. Raises ValueError where knobs or state are not of this version's policies."""
        policy = make_policy(self.policy, **self.knobs)
        policy.restore(self.state)
        return policy


class SwarmFile(msgspec.Struct, frozen=True, kw_only=True):
    """A trained swarm."""

    source: Path
    created: str
    """ISO 8601, UTC."""
    seed: int
    worlds: str
    episodes: int
    best: int
    """Index in ``agents``."""
    agents: tuple[TrainedAgent, ...]

    def best_policy(self) -> Policy:
        """The best agent's policy, as trained. Raises CheckpointError."""
        try:
            return self.agents[self.best].make()
        except ValueError as error:
            raise CheckpointError(f"{self.source}: agents[{self.best}]: {error}") from None


class _Elsewhere(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a state stands."""

    file: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,200}$")]
    """Beside the JSON."""
    offset: Annotated[int, msgspec.Meta(ge=0)]
    length: Annotated[int, msgspec.Meta(ge=0)]
    blake2b: str
    """Of those bytes, 16 bytes long, in hex."""


class _Agent(msgspec.Struct, frozen=True, kw_only=True):
    id: Annotated[int, msgspec.Meta(ge=0)]
    policy: str
    knobs: dict[str, int | float]
    score: float
    state: str | _Elsewhere
    """zlib's bytes, in base64 or elsewhere."""


class _Swarm(msgspec.Struct, frozen=True, kw_only=True):
    format: Literal["amaru-swarm-1"]
    created: str
    seed: int
    worlds: str
    episodes: Annotated[int, msgspec.Meta(ge=0)]
    best: Annotated[int, msgspec.Meta(ge=0)]
    agents: Annotated[tuple[_Agent, ...], msgspec.Meta(min_length=1, max_length=100_000)]


def save_swarm_file(swarm: SwarmFile, path: Path | None = None) -> list[Path]:
    """Write ``swarm`` to ``path`` (left out: its ``source``); returns the files that make it up. Raises OSError."""
    path = path or swarm.source
    packed = [zlib.compress(agent.state, 6) for agent in swarm.agents]
    files = [path]
    states: list[str | _Elsewhere]
    if sum(map(len, packed)) <= MAX_INLINE_BYTES:
        states = [b64encode(state).decode() for state in packed]
    else:
        whole = b"".join(packed)
        binary = path.with_name(f"{path.stem}-{_digest(whole)[:8]}.bin")
        write_whole(binary, whole)
        files.append(binary)
        states, offset = [], 0
        for state in packed:
            states.append(_Elsewhere(binary.name, offset, len(state), _digest(state)))
            offset += len(state)
    document = _Swarm(
        format="amaru-swarm-1",
        created=swarm.created,
        seed=swarm.seed,
        worlds=swarm.worlds,
        episodes=swarm.episodes,
        best=swarm.best,
        agents=tuple(
            _Agent(id=agent.id, policy=agent.policy, knobs={**agent.knobs}, score=agent.score, state=state)
            for agent, state in zip(swarm.agents, states, strict=True)
        ),
    )
    write_whole(path, msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    for stale in binaries_of(path):
        if stale not in files:
            stale.unlink(missing_ok=True)
    return files


def binaries_of(path: Path) -> list[Path]:
    """The binaries beside a swarm's JSON, those of its older versions included."""
    return sorted(path.parent.glob(f"{path.stem}-{'[0-9a-f]' * 8}.bin"))


def load_swarm_file(path: Path | str) -> SwarmFile:
    """Read and verify a swarm's JSON, and the binary that it names.

    Raises
    ------
    CheckpointError
        It cannot be read, or is not whole: with file, the path in it, and the reason.
    """
    path = Path(path)
    try:
        document = msgspec.json.decode(_bytes(path), type=_Swarm)
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path}: {error}; it is not a swarm that `amaru train` wrote") from None
    if document.best >= len(document.agents):
        raise CheckpointError(f"{path}: best: there is no agent {document.best} of {len(document.agents)}")
    binaries: dict[str, bytes] = {}
    agents = []
    for place, agent in enumerate(document.agents):
        at = f"{path}: agents[{place}]"
        if agent.policy not in LEARNED:
            raise CheckpointError(f"{at}.policy: {agent.policy[:40]!r} is none of {', '.join(LEARNED)}")
        try:
            knobs_from(agent.knobs)
        except ValueError as error:
            raise CheckpointError(f"{at}.knobs: {error}") from None
        if isinstance(agent.state, _Elsewhere) and agent.state.file not in binaries:
            binaries[agent.state.file] = _bytes(path.with_name(agent.state.file))
        agents.append(
            TrainedAgent(
                id=agent.id,
                policy=agent.policy,
                knobs={**agent.knobs},
                score=agent.score,
                state=_state(agent.state, binaries, f"{at}.state"),
            )
        )
    return SwarmFile(
        source=path,
        created=document.created,
        seed=document.seed,
        worlds=document.worlds,
        episodes=document.episodes,
        best=document.best,
        agents=tuple(agents),
    )


def _state(stored: str | _Elsewhere, binaries: dict[str, bytes], at: str) -> bytes:
    if isinstance(stored, _Elsewhere):
        packed = binaries[stored.file][stored.offset : stored.offset + stored.length]
        if _digest(packed) != stored.blake2b:
            raise CheckpointError(
                f"{at}: {len(packed):,} bytes at {stored.offset:,} of {stored.file} have another digest than it says;"
                " the two files are not of one training, or damaged"
            )
    else:
        try:
            packed = b64decode(stored, validate=True)
        except binascii.Error as error:
            raise CheckpointError(f"{at}: no base64: {error}") from None
    try:
        return unpacked(packed)
    except ValueError as error:
        raise CheckpointError(f"{at}: {error}") from None


def unpacked(packed: bytes) -> bytes:
    """What ``zlib.compress`` packed, of at most ``MAX_STATE_BYTES``. Raises ValueError."""
    unzip = zlib.decompressobj()
    try:
        state = unzip.decompress(packed, MAX_STATE_BYTES)
    except zlib.error as error:
        raise ValueError(f"it cannot be unpacked: {error}") from None
    if not unzip.eof or unzip.unused_data:
        raise ValueError("it cannot be unpacked: it is cut off, too long, or followed by something else")
    return state


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
