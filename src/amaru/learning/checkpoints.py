"""``checkpoint.bin``: everything that a training needs to go on as if it had never stopped.

Layout: 8 bytes that say what it is, 16 bytes of digest (BLAKE2b) over the rest, then zlib's bytes of a MessagePack.
Randomness is not in it: it is drawn from the run's seed and the episode's number, wherever the run began.
"""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Annotated

import msgspec

from amaru.errors import CheckpointError
from amaru.files.whole import write_whole

NAME = "checkpoint.bin"
MAGIC = b"AMARUTR1"
_DIGEST_BYTES = 16
_MAX_BYTES = 16 * 1024**3

Count = Annotated[int, msgspec.Meta(ge=0)]


class TrainingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What decides a training's result. Of all else that it is given, only a stability field has a say."""

    policy: str
    agents: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    worlds: str
    """The family's name, or the path of its file."""
    steps: Annotated[int, msgspec.Meta(ge=1)]
    """Of each episode."""
    seed: Count
    learning_rate: float | None
    """The first agent's; the others begin around it. ``None``: the policy's default."""
    epsilon: Annotated[float, msgspec.Meta(ge=0, le=1)]
    """Share of the decisions drawn among all feasible offers, in the first episode."""
    epsilon_kept: Annotated[float, msgspec.Meta(gt=0, le=1)]
    """Factor on it with each episode."""
    epsilon_least: Annotated[float, msgspec.Meta(ge=0, le=1)]
    share_every: Annotated[int, msgspec.Meta(ge=1)]
    """Episodes between two exchanges of the agents."""
    decisions: Count
    """Sampled in each episode."""
    warm_start: str = ""
    """The data set whose history the agents began with; empty: with nothing."""


class AgentState(msgspec.Struct, frozen=True, kw_only=True):
    """One agent between two episodes."""

    knobs: dict[str, int | float]
    score: float
    """Moving average of its mean utility."""
    fresh: bool
    """Whether it began with nothing since the last exchange."""
    state: bytes


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A training between two episodes."""

    settings: TrainingSettings
    family: str
    """Digest of the scenario that was trained on."""
    episode: Count
    """The last one played."""
    wanted: Count
    """Episodes to be played in all, when it was written."""
    epsilon: float
    """Of the next episode."""
    scored: Count
    """Episodes that scores are averages over; they count alike until there are enough."""
    agents: tuple[AgentState, ...]
    center: bytes
    """What the agents agreed on when they last exchanged."""
    requests: Count
    seconds: float
    """Spent on training so far."""
    field: bytes | None = None
    """The stability field in this process; ``None``: there was none."""


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> int:
    """Write it whole, or leave what was there. Returns its bytes. Raises OSError."""
    # The tables are mostly zeros: the fastest level packs them best for its time.
    body = zlib.compress(msgspec.msgpack.encode(checkpoint), 1)
    write_whole(path, MAGIC + _digest(body) + body)
    return len(body)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises
    ------
    CheckpointError
        It cannot be read, is none, or was damaged: with the file and the reason.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    head = len(MAGIC) + _DIGEST_BYTES
    if not content.startswith(MAGIC):
        raise CheckpointError(f"{path}: is no checkpoint of a training; `amaru train` writes one as {NAME}")
    body = content[head:]
    if _digest(body) != content[len(MAGIC) : head]:
        raise CheckpointError(
            f"{path}: is damaged: its content has another digest than it says; use a copy, or train anew"
        )
    unzip = zlib.decompressobj()
    try:
        checkpoint = msgspec.msgpack.decode(unzip.decompress(body, _MAX_BYTES), type=Checkpoint)
    except (zlib.error, msgspec.DecodeError) as error:
        raise CheckpointError(f"{path}: {error}; another version of amaru wrote it") from None
    if len(checkpoint.agents) != checkpoint.settings.agents:
        raise CheckpointError(
            f"{path}: agents: it holds {len(checkpoint.agents)} of {checkpoint.settings.agents}; train anew"
        )
    return checkpoint


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
