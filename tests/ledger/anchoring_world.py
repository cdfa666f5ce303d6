"""A log, a clock and targets that do as they are told, for tests of anchoring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from log_samples import KEY, make_leaf, open_log

from amaru.ledger.anchoring import Line
from amaru.ledger.anchoring_metrics import LineFigures
from amaru.ledger.anchoring_pace import Cadence
from amaru.ledger.anchoring_source import Source
from amaru.ledger.anchoring_state import LineName, StateFolder, Token
from amaru.ledger.anchoring_targets import Ask, Target
from amaru.ledger.notes import NoteVerifier
from amaru.ledger.proofs import Proofs
from amaru.ledger.tile_store import FolderStore
from amaru.ledger.troubles import AnchorError, Trouble

NAME = LineName("gateway", "fast", "authority")
FAST = Cadence.of("fast", 90)
START = 1_790_000_010.0
"""A slot of the fast cadence begins here."""


@dataclass
class FakeTarget:
    """Gives tokens that say which anchor they are of, or the troubles in its list, first come first."""

    troubles: list[Trouble] = field(default_factory=list)
    asked: list[Ask] = field(default_factory=list)
    placed: list[Ask] = field(default_factory=list)
    where: str = "a place"
    during: Callable[[Ask], None] | None = None

    def ask(self, ask: Ask) -> Token:
        self.asked.append(ask)
        if self.during is not None:
            self.during(ask)
        if self.troubles:
            raise AnchorError("no", self.troubles.pop(0))
        return Token("timestamp", f"{ask.slot} {len(self.asked)}".encode())

    def place(self, ask: Ask, token: Token) -> None:
        self.placed.append(ask)


class AnchoringWorld:
    """All of it in a folder; the clock stands where it is put."""

    def __init__(self, folder: Path, *, target: Target | None = None, cadence: Cadence = FAST) -> None:
        self.folder = folder
        self.root = folder / "log"
        self.now = START
        self.fake = FakeTarget()
        self.target: Target = target if target is not None else self.fake
        self.cadence = cadence
        self.states = StateFolder(folder / "state")
        self.figures = LineFigures()
        self.line = self.restarted()

    def restarted(self, verifiers: tuple[NoteVerifier, ...] = (KEY.verifier,)) -> Line:
        """The line as a new process has it."""
        self.states.close()
        self.states = StateFolder(self.folder / "state")
        self.figures = LineFigures()
        self.source = Source(NAME.namespace, str(self.root), verifiers, self.states)
        self.line = Line(
            NAME, self.cadence, self.target, self.source, self.states, self.figures,
            clock=lambda: self.now, timer=lambda: self.now,
        )  # fmt: skip
        return self.line

    def grow(self, entries: int = 1) -> int:
        """The log's size after it has grown."""
        with open_log(self.root) as log:
            size = log.size
            log.append([make_leaf(number) for number in range(size, size + entries)])
            return log.size

    def run_until(self, until_s: float) -> None:
        """Step whenever it is due."""
        while (due := self.line.step()) < until_s:
            self.now = max(self.now, due)
        self.now = until_s

    def kept(self) -> list[bytes]:
        """Every time-stamp that lies beside the log, by the size of the checkpoint, then in order."""
        proofs = Proofs(FolderStore(self.root))
        shards = self.root / "proofs" / "checkpoints"
        sizes = sorted(
            int(path.name) for shard in (shards.iterdir() if shards.exists() else ()) for path in shard.iterdir()
        )
        notes = [proofs.note_of(size) for size in sizes]
        return [stamp for note in notes if note is not None for stamp in proofs.of_checkpoint(note).stamps]

    def kept_slots(self) -> list[int]:
        """The slots that those of a FakeTarget are for."""
        return [int(stamp.split()[0]) for stamp in self.kept()]
