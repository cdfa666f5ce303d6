"""The log: append-only, durable, signed; static files that any HTTP server can serve.

What lies under its root (a folder, or a bucket):

- ``tile/…``: hash tiles and entry bundles after C2SP tlog-tiles (``tiles``);
- ``checkpoint``: the last signed checkpoint; ``checkpoints/…``: every one ever published, 256 a file;
- ``journal/…``: what was committed since the last time that all tiles were made durable (``journal``);
- ``lock``; and ``pruned`` once a prefix of the entries is gone (``pruning``).

Two steps, so that many small appends cost one flush each and not one for every file that they touch:

1. *Commit*: the leaves are appended to the journal, and it is flushed (one ``fdatasync``; on an object store, one new
   object). From then on they stand at their index for ever. **An acknowledgement means this**: no crash of the process
   and no loss of power takes the leaves away or gives their index to others.
2. *Publish*: tiles are made from all that was committed, then a new checkpoint is signed and replaces ``checkpoint``,
   then it is added to those kept: each a file written beside and renamed, in this order and without a flush. From then
   on the leaves are read and proven by anyone. A process that dies loses none of it. Where the power fails, the kernel
   may have written any part of it or none, and recovery makes it again from the journal; Ed25519 signs the same bytes.

``append`` does both. ``commit`` and ``publish`` are for who appends much (``writer``): the leaves of many callers share
a flush, and a checkpoint is published some times a second.

Once the journal is long it is *settled*: everything is published, each file written since the last time is flushed, and
its folder, and only then a new journal takes the old one's place (written beside, flushed, renamed, folder flushed). It
begins with the signed checkpoint up to which tiles need no journal. Partial tiles that full ones have replaced are
deleted after that, never before.

Recovery, at every opening: the lock is taken; the journal's base is verified with the log's own keys, and the right
edge of the tree is read and must give the base's root; frames after it are taken in, a last one that is cut short is
cut off (it was never acknowledged), and the journal is flushed before anything is built on it; then all is published
anew over whatever the crash left. A log whose published checkpoint is not a prefix of what its journal holds is
refused: something acknowledged is missing or altered, and it is for people to look.

A kill at any instant thus leaves: during the journal's write, a frame cut short; after it and before the flush's end, a
frame that may or may not survive, unacknowledged; during publishing, some new tiles which no checkpoint covers yet;
between settling's steps, the old journal or the new one, either of which leads to the same tree. A full disk makes the
step that meets it raise LedgerError: a commit is then taken back and nothing of it was acknowledged; a publication is
put off and the commits before it stand. Both go on once there is room. Where a flush itself fails, the tiles are made
anew from the journal, as after a crash, because the kernel forgets what it could not write.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from amaru.errors import LedgerBusy, LedgerCorrupt, LedgerError, ProofError
from amaru.ledger.checkpoint import Checkpoint, verify_checkpoint
from amaru.ledger.erasing import finish_erasing
from amaru.ledger.growth import Edge
from amaru.ledger.journal import Frame, Mark, in_frames
from amaru.ledger.kept import KeptCheckpoints
from amaru.ledger.merkle import EMPTY_ROOT
from amaru.ledger.notes import MAX_NOTE_BYTES, NoteSigner, NoteVerifier
from amaru.ledger.superseded import Superseded
from amaru.ledger.tile_store import TileStore, open_store
from amaru.ledger.tiles import MAX_ENTRY_BYTES, Tile, decode_entries, encode_entries
from amaru.ledger.view import CHECKPOINT, TILES_CACHED, LogView, Pruned, read_pruned
from amaru.telemetry.logs import get_logger

PUBLISH_BYTES = 8 * 1024 * 1024
"""Committed leaves are in memory until they are published, which is done without being asked from here on."""
SETTLE_BYTES = 32 * 1024 * 1024
"""Of journal, or of tiles not yet durable: settled from here on; what is flushed in one go."""
MOST_JOURNALS = 2
"""Times SETTLE_BYTES: where publishing or settling keeps failing, commits are refused once there is more journal. This,
and a frame, is what a recovery reads of it at most, and what waits to be published in memory."""

_log = get_logger("ledger")


class Appended(NamedTuple):
    """Leaves ``first`` and on are durable; ``checkpoint``, a signed note, covers them.

    It is ``None`` where they could not be published yet (a full disk); that is tried again with the next append.
    """

    first: int
    checkpoint: bytes | None


class Log(LogView):
    """A log and its one writer; reading is as ``LogView`` has it. Safe from several threads, which wait for each other.

    ``size`` is what is published, and can be read and proven; ``committed`` is what is durable.
    """

    def __init__(
        self,
        store: TileStore,
        signers: Sequence[NoteSigner],
        *,
        origin: str | None = None,
        verifiers: Iterable[NoteVerifier] = (),
        settle_bytes: int = SETTLE_BYTES,
        tiles_cached: int = TILES_CACHED,
    ) -> None:
        if not signers:
            raise LedgerError(f"{store.shown}: a log needs a key to sign its checkpoints with")
        known = dict.fromkeys((*(signer.verifier for signer in signers), *verifiers))
        self._name = origin or signers[0].name
        super().__init__(store, known, origin=self._name, tiles_cached=tiles_cached)
        self._signers = tuple(signers)
        self._settle_bytes = settle_bytes
        self._settle_at = settle_bytes
        self._journal = store.journal()
        self.writing = threading.RLock()
        """Held by who does several steps that no other thread's may come between, or writes to the store itself."""
        self._edge = Edge.new()
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._mark = Mark()
        self._kept = KeptCheckpoints()
        self._unkept: bytes | None = None
        self._superseded = Superseded(store)
        self._sound = False
        self._closed = False

    @classmethod
    def open(
        cls,
        url: str,
        signers: Sequence[NoteSigner],
        *,
        origin: str | None = None,
        verifiers: Iterable[NoteVerifier] = (),
        options: dict[str, Any] | None = None,  # Any: what the file system takes
        settle_bytes: int = SETTLE_BYTES,
    ) -> Log:
        """Open the log at a path or URL to write, or make it; ``origin`` is by default the first key's name.

        ``verifiers`` are keys that signed before and no longer do. Raises LedgerBusy where it has a writer,
        LedgerCorrupt where something acknowledged is missing or altered, and LedgerError where the store fails.
        """
        log = cls(open_store(url, options), signers, origin=origin, verifiers=verifiers, settle_bytes=settle_bytes)
        log.store.hold()
        try:
            log._recover()
        except BaseException:
            log._let_go()
            raise
        return log

    # ---- appending --------------------------------------------------------------------------------------------------

    @property
    def committed(self) -> int:
        """Leaves that are durable, published or not."""
        return self._edge.frontier.size + len(self._pending)

    @property
    def mark(self) -> Mark:
        """The mark of the last commit that had one."""
        return self._mark

    def append(self, leaves: Sequence[bytes]) -> Appended:
        """Commit leaves and publish them. Raises LedgerError where they could not be committed: then none was."""
        with self.writing:
            first = self.commit(leaves)
            try:
                self.publish()
            except LedgerError as error:
                _log.warning("ledger_publish_put_off", log=self.store.shown, reason=str(error))
                return Appended(first, None)
            return Appended(first, self.checkpoint())

    def commit(self, leaves: Sequence[bytes], *, mark: Mark | None = None) -> int:
        """Make leaves durable, in this order; returns the index of the first. They are published later.

        Raises LedgerError where that failed. Of a commit of more than 8 MiB a part may then have been made.
        """
        for leaf in leaves:
            if len(leaf) > MAX_ENTRY_BYTES:
                raise LedgerError(f"an entry of {len(leaf):,} bytes: the format takes at most {MAX_ENTRY_BYTES:,}")
        with self.writing:
            self._require_sound()
            first = self.committed
            pieces = list(in_frames(leaves))
            for number, piece in enumerate(pieces, 1):
                self._require_room()
                new_mark = mark if mark is not None and number == len(pieces) else self._mark
                self._journal.append(Frame(self.committed, encode_entries(piece), new_mark))
                self._pending += piece
                self._pending_bytes += sum(map(len, piece))
                self._mark = new_mark
                self._make_room()
            return first

    def publish(self) -> Checkpoint:
        """Make tiles of all that is committed and sign a checkpoint over it. Raises LedgerError; commits stand."""
        with self.writing:
            self._require_sound()
            if self._pending or self._head is None:
                self._publish()
            return self.head

    def settle(self) -> None:
        """Publish, make all tiles durable, and begin the journal anew. Raises LedgerError; commits stand."""
        with self.writing:
            self.publish()
            self._keep()
            if not self._journal.size_bytes and not self.store.unsynced_bytes:
                return
            try:
                self.store.sync()
                self._journal.restart(Frame(self.size, self.checkpoint(), self._mark))
            except LedgerError:
                self._sound = False  # which tiles are durable, and which journal counts, is read anew
                raise
            self._settle_at = self._settle_bytes
            self._superseded.based(self.size, self._kept.folder)

    def refresh(self) -> Checkpoint:
        """The last checkpoint published: nobody else publishes here."""
        return self.head

    def note_pruned(self, pruned: Pruned) -> None:
        """The entries before ``pruned.until`` are gone (``pruning``)."""
        self._pruned = pruned
        self._bundles.clear()

    def renew(self) -> None:
        """Remain the one writer while nothing is appended. Raises LedgerBusy where another has taken the log."""
        with self.writing:
            if not self._closed:
                self.store.renew()

    def abandon(self) -> None:
        """Let go of the log and write nothing more to it: another may have it. What was committed stays."""
        with self.writing:
            self._sound = False
            self.close()

    def close(self) -> None:
        """Settle what can be settled, and let another writer in. What was committed stays in any case."""
        with self.writing:
            if self._closed:
                return
            try:
                if self._sound:
                    self.settle()
            except LedgerError as error:
                _log.warning("ledger_not_settled", log=self.store.shown, reason=str(error))
            finally:
                self._let_go()

    def _let_go(self) -> None:
        self._closed = True
        self._journal.close()
        try:
            self.store.release()
        except LedgerError as error:  # the lease ends by itself
            _log.warning("ledger_not_released", log=self.store.shown, reason=str(error))

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require_room(self) -> None:
        """Where publishing or settling keeps failing, memory and journal stay bounded."""
        if self._journal.size_bytes <= MOST_JOURNALS * self._settle_bytes:
            return
        try:
            self.settle()
        except LedgerBusy:
            raise
        except LedgerError as error:
            raise LedgerError(
                f"{self.store.shown}: {self._journal.size_bytes:,} bytes of journal wait for tiles to be written; "
                f"that fails: {error}"
            ) from None

    def _make_room(self) -> None:
        """Publish or settle where it is time to; a failure is put off, since the commit before it stands."""
        try:
            if max(self._journal.size_bytes, self.store.unsynced_bytes) >= self._settle_at:
                self._settle_at += self._settle_bytes // 4  # not at every commit, where it fails
                self.settle()
            elif self._pending_bytes >= PUBLISH_BYTES:
                self._publish()
        except LedgerError as error:
            _log.warning("ledger_publish_put_off", log=self.store.shown, reason=str(error))

    def _publish(self) -> None:
        self._keep()

        def put(tile: Tile, content: bytearray) -> None:
            self.store.write(tile.path, content)

        edge = self._edge.copy()
        filled = edge.grow(self._pending, put)
        partials = edge.write_partials(self._edge.frontier.size, put)
        checkpoint = Checkpoint(self._name, edge.frontier.size, edge.frontier.root())
        note = checkpoint.sign(self._signers)
        self.store.replace(CHECKPOINT, note)
        self._edge, self._head = edge, (checkpoint, note)
        self._pending, self._pending_bytes = [], 0
        self._unkept = note
        self._keep()
        for tile in partials:
            self._superseded.by_wider(f"level {tile.level}", tile.path)
        for tile in filled:
            self._superseded.by_full(f"{tile.path}.p")

    def _keep(self) -> None:
        """Add the last checkpoint published to those kept; it is tried again before the next one is published."""
        if self._unkept is None:
            return
        kept = self._kept.add(self.store, self._unkept)
        self._unkept = None
        self._superseded.by_wider("checkpoints", kept.path)
        if kept.number > self._kept.number:
            self._superseded.by_full(self._kept.folder)
        self._kept = kept

    # ---- recovery ---------------------------------------------------------------------------------------------------

    def _require_sound(self) -> None:
        if self._closed:
            raise LedgerError(f"{self.store.shown}: this log is closed")
        if not self._sound:
            self._journal.close()
            self._recover()

    def _recover(self) -> None:
        """Have everything as it was committed; see the top of this module."""
        frames = list(self._journal.recover())
        kept = KeptCheckpoints.load(self.store, since=frames[0].payload if frames else b"")
        note, published = self._published(self.store.read(CHECKPOINT, most=MAX_NOTE_BYTES) or b"")
        _, last_kept = self._published(kept.notes[-1] if kept.notes else b"")
        if not frames:
            if shown := published or last_kept:
                raise LedgerCorrupt(
                    f"{self.store.shown}: holds {shown.size:,} entries and no journal, so that the last ones "
                    "acknowledged may be missing — restore the folder journal from a copy"
                )
            frames = [Frame(0, b"")]
            self._journal.restart(frames[0])
        base, *commits = frames
        self._pruned = read_pruned(self.store)
        finish_erasing(self.store, self._pruned.until)
        self._edge = Edge.at(LogView(self.store, self.verifiers, origin=self.origin), base)
        self._mark = commits[-1].mark if commits else base.mark
        self._pending = self._leaves_of(commits)
        self._pending_bytes = sum(map(len, self._pending))
        self._kept = kept
        self._superseded.based(base.first, kept.folder)
        self._require_prefix(published)
        self._require_prefix(last_kept)
        if published is not None and (last_kept is None or published.size > last_kept.size):
            self._unkept = note  # the process ended between publishing and this
        self._publish()
        self._sound = True

    def _leaves_of(self, commits: Sequence[Frame]) -> list[bytes]:
        leaves: list[bytes] = []
        start = self._edge.frontier.size
        for frame in commits:
            if frame.first != start + len(leaves):
                raise LedgerCorrupt(
                    f"{self.store.shown}/journal: entries {start + len(leaves):,} to {frame.first - 1:,} are missing — "
                    "restore it from a copy"
                )
            leaves += decode_entries(frame.payload, where=f"{self.store.shown}/journal")
        return leaves

    def _published(self, note: bytes) -> tuple[bytes, Checkpoint | None]:
        """A checkpoint that was published; ``None`` where none was, or where a loss of power left an empty file."""
        if not note:
            return b"", None
        try:
            return note, verify_checkpoint(note, self.verifiers, origin=self.origin)
        except ProofError as error:
            raise LedgerCorrupt(f"{self.store.shown}/{CHECKPOINT}: {error}") from None

    def _require_prefix(self, published: Checkpoint | None) -> None:
        """What was published must be a prefix of what is here now, or something acknowledged is gone."""
        if published is None:
            return
        edge, start = self._edge.copy(), self._edge.frontier.size
        if published.size > start + len(self._pending):
            raise LedgerCorrupt(
                f"{self.store.shown}: truncated: {published.size:,} entries were published, and "
                f"{start + len(self._pending):,} are here — restore tiles and journal from a copy"
            )
        if published.size < start:
            return  # an older checkpoint than the journal's base, which holds; it is replaced
        edge.grow(self._pending[: published.size - start], lambda _tile, _content: None)
        root = edge.frontier.root() if published.size else EMPTY_ROOT
        if root != published.root:
            raise LedgerCorrupt(
                f"{self.store.shown}: the {published.size:,} entries here are not those that were published — "
                "run the audit, and restore from a copy"
            )
