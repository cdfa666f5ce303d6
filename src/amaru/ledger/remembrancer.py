"""The Remembrancer: the ledger's face. It records, finds, shows, and says what holds and how it knows.

What it shows comes from the log, and its hash is compared with the tree's; the index only says where to look.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import TracebackType

import msgspec

from amaru.errors import EntryPruned, LedgerCorrupt, LedgerError, ProofError
from amaru.ledger.attestation import Deployment, Resource, deployment_statement, sign_envelope
from amaru.ledger.checkpoint import Checkpoint, verify_checkpoint
from amaru.ledger.index import Found, Index
from amaru.ledger.inlet import PRUNE_LIMIT_S, hand_over
from amaru.ledger.keys import load_signers
from amaru.ledger.log import Log
from amaru.ledger.merkle import leaf_hash
from amaru.ledger.notes import NoteSigner, NoteVerifier, verify_note
from amaru.ledger.place import Place, found, note_seen, open_log, open_view, trust_of
from amaru.ledger.pruning import prune
from amaru.ledger.receipts import Adr, Deploy, Evidence, Memory, Pruning, Receipt, Training, leaf_of, read_leaf
from amaru.ledger.search import Search, Term, digest_of
from amaru.ledger.trust import Trust
from amaru.ledger.view import InclusionProof, LogView, Pruned
from amaru.ledger.words import words_of

LEAST_PREFIX = 8
"""Hexadecimal digits by which a receipt may be named; fewer decimal ones are its place in the log."""

_OF_A_FILE = (Deploy, Training, Memory, Adr)
"""Kinds whose first file is what they are about, where they do not say otherwise."""


class NoReceipt(LedgerError):
    """The log has no such receipt, as far as can be told."""


class Entry(msgspec.Struct, frozen=True):
    """One leaf of the log as it was read."""

    leaf: int
    hash: bytes
    """RFC 6962 leaf hash: the receipt's id is its hexadecimal form."""
    data: bytes | None
    """``None``: it was pruned."""
    receipt: Receipt | None
    """``None``: pruned, or of a kind that this amaru does not know."""

    @property
    def id(self) -> str:
        return self.hash.hex()


class Recorded(msgspec.Struct, frozen=True):
    """What was logged, durably."""

    entry: Entry
    checkpoint: bytes | None
    """A signed note that covers it; ``None``: it is durable, and could not be published yet (a full disk)."""
    made: NoteSigner | None
    """The key that was made for it, as there was no log yet."""


class Shown(msgspec.Struct, frozen=True):
    """A receipt, and the proof that it is in the log as of a signed checkpoint."""

    entry: Entry
    proof: InclusionProof
    head: Checkpoint
    checkpoint: bytes
    """The signed note."""
    signers: tuple[NoteVerifier, ...]
    """Whose signatures on it hold."""
    trusted: str
    """Where those keys are known from, in words."""


class Remembrancer:
    """One ledger.

    Parameters
    ----------
    place
        Where it lies.
    trust
        What the log is held to; ``None``: what this user trusts already.
    clock
        Unix seconds.
    told
        Called with a line about what a person should know.
    progress
        Called with how many entries are indexed, and how many there are, while the index catches up.
    """

    def __init__(
        self,
        place: Place,
        *,
        trust: Trust | None = None,
        clock: Callable[[], float] = time.time,
        told: Callable[[str], None] = lambda _: None,
        progress: Callable[[int, int], None] = lambda _done, _size: None,
    ) -> None:
        self.place = place
        self._given = trust
        self._clock = clock
        self._told = told
        self._progress = progress
        self._index: Index | None = None

    def now(self) -> float:
        """Unix seconds."""
        return self._clock()

    # ---- writing ----------------------------------------------------------------------------------------------------

    def record(self, receipt: Receipt) -> Recorded:
        """Log a receipt, durably on return; the first one makes the log and its key.

        Where another process holds the log, a gateway for one, it is handed to that.

        Raises
        ------
        LedgerError
            It cannot be recorded; nothing was. LedgerBusy: another process records in this log.
        """
        leaf_of(receipt)  # what cannot be recorded makes no log
        if isinstance(receipt, Pruning):
            raise LedgerError("a pruning is recorded by doing it: see `prune`")
        if isinstance(receipt, Deploy) and not (receipt.digest or receipt.evidence):
            raise LedgerError("a deployment needs what was deployed: its --digest, or a file as --evidence")
        if isinstance(receipt, _OF_A_FILE) and receipt.evidence and not receipt.digest:
            receipt = msgspec.structs.replace(receipt, digest=receipt.evidence[0].digest)
        made = found(self.place)
        if isinstance(receipt, Deploy) and receipt.envelope is None:
            receipt = msgspec.structs.replace(receipt, envelope=self._attested(receipt))
        data = leaf_of(receipt)
        taken = hand_over(self.place.keys, data)
        if taken is not None:
            first, checkpoint = taken.index, None if taken.checkpoint is None else taken.checkpoint.encode()
        else:
            with open_log(self.place) as log:
                first, checkpoint = log.append([data])
                note_seen(self.place, log.checkpoint())
        self._forget()
        return Recorded(Entry(first, leaf_hash(data), data, receipt), checkpoint, made)

    def prune(self, pruning: Pruning) -> Pruned:
        """Erase the texts of the entries before its ``until``, a multiple of 256, from the log and the index.

        Where another process holds the log, that does it. Raises LedgerError.
        """
        data = leaf_of(pruning)
        taken = hand_over(self.place.keys, data, limit_s=PRUNE_LIMIT_S)
        if taken is not None:
            pruned = Pruned(pruning.until, taken.index)
        else:
            with open_log(self.place) as log:
                pruned = prune(log, data)
        self._forget()
        self.index.forget(pruned.until)
        return pruned

    def forget_pruned(self) -> None:
        """Have the index, where there is one, forget what the log has pruned. Raises LedgerError."""
        self._forget()
        index = Index(self.place.index, self.view, told=self._told)
        try:
            index.forget_pruned()
        finally:
            index.close()

    def open_log(self) -> Log:
        """The log, to write in; for what the Remembrancer has no word for. Raises LedgerError."""
        self._forget()
        return open_log(self.place)

    def _attested(self, deploy: Deploy) -> dict[str, object]:
        """The in-toto Statement about a deployment, in a DSSE envelope signed by the log's keys."""
        evidence = tuple(_resource(one) for one in deploy.evidence)
        digest = deploy.digest.removeprefix("sha256:")
        subject = Resource(name=deploy.component, digest={"sha256": digest}) if digest else evidence[0]
        deployment = Deployment(
            component=deploy.component,
            version=deploy.version,
            environment=deploy.environment,
            deployed_at=deploy.at,
            deployed_by=deploy.by,
            evidence=evidence,
        )
        return sign_envelope(deployment_statement((subject,), deployment), load_signers(self.place.signing_key))

    # ---- reading ----------------------------------------------------------------------------------------------------

    @cached_property
    def _trusting(self) -> tuple[Trust, str]:
        return (self._given, "what you gave") if self._given is not None else trust_of(self.place)

    @property
    def trust(self) -> Trust:
        """What the log is held to. Raises LedgerError: nothing is known."""
        return self._trusting[0]

    @cached_property
    def view(self) -> LogView:
        """The log as its last checkpoint has it. Raises LedgerError, and ProofError where it does not hold."""
        return open_view(self.place, self.trust.verifiers)

    @property
    def index(self) -> Index:
        """The index, caught up with the log. Raises LedgerError."""
        if self._index is None:
            self._index = Index(self.place.index, self.view, told=self._told)
            self._index.catch_up(self._progress)
        return self._index

    def reindex(self) -> int:
        """Make the index anew; how many entries it holds. Raises LedgerError."""
        if self._index is None:
            self._index = Index(self.place.index, self.view, told=self._told)
        return self._index.rebuild(self._progress)

    def find(self, search: Search, limit: int) -> list[Entry]:
        """The receipts wanted, the newest first. Raises LedgerError."""
        return self._read(lambda: self.index.find(search, limit))

    def count(self, search: Search) -> dict[str, int]:
        """How many there are, by type. Raises LedgerError."""
        return self.index.count(search)

    def get(self, name: str) -> Entry:
        """The receipt with this id, a beginning of it, or place (``#12`` or ``12``).

        Raises
        ------
        NoReceipt
            There is none, or several begin so.
        """
        given = name.strip().lower().removeprefix("leaf:")
        digits = given.removeprefix("#")
        if digits.isdecimal() and digits.isascii() and (given.startswith("#") or len(digits) < LEAST_PREFIX):
            return self.at(int(digits[:18]))
        try:
            bytes.fromhex(given.ljust(64, "0"))
        except ValueError:
            given = ""
        if not LEAST_PREFIX <= len(given) <= 64:
            raise NoReceipt(
                f"{name[:80]!r} names no receipt: give its id, at least {LEAST_PREFIX} of its hexadecimal digits, or "
                "its place in the log (#12)"
            )
        several = self._read(lambda: self.index.by_hash(given))
        if len(several) > 1:
            places = ", ".join(f"#{one.leaf}" for one in several)
            raise NoReceipt(f"several receipts begin with {given}: {places}; give more digits, or the place")
        if not several:
            raise NoReceipt(f"no receipt in this log has the id {given}; it holds {self.view.size:,}")
        return several[0]

    def at(self, leaf: int) -> Entry:
        """The receipt at a place. Raises NoReceipt, LedgerCorrupt."""
        if not 0 <= leaf < self.view.size:
            last = f"its last is #{self.view.size - 1:,}" if self.view.size else "it is empty"
            raise NoReceipt(f"this log has no #{leaf:,}: {last}")
        wanted = self.view.leaf_hash(leaf)
        try:
            data = self.view.entry(leaf)
        except EntryPruned:
            return Entry(leaf, wanted, None, None)
        if leaf_hash(data) != wanted:
            raise LedgerCorrupt(
                f"{self.view.store.shown}: entry #{leaf:,} is not what was logged there: its hash is "
                f"{leaf_hash(data).hex()}, the tree's is {wanted.hex()}. `verify-audit` names all that is at fault; "
                "restore that from a copy"
            )
        return Entry(leaf, wanted, data, read_leaf(data))

    def show(self, entry: Entry) -> Shown:
        """The receipt with the proof of it, verified. Raises ProofError, LedgerCorrupt."""
        proof = self.view.inclusion(entry.leaf)
        if proof.leaf_hash != entry.hash:
            raise ProofError(f"entry #{entry.leaf:,}: the tree holds another leaf, {proof.leaf_hash.hex()}")
        note = self.view.checkpoint()
        head = verify_checkpoint(note, self.trust.verifiers, origin=self.view.origin)
        _, signers = verify_note(note, self.trust.verifiers)
        return Shown(entry, proof, head, note, signers, self._trusting[1])

    def of_file(self, digest: str, limit: int = 1_000) -> list[Entry]:
        """The receipts that name a file's ``sha256:HEX``, the newest first. Raises LedgerError."""
        return self.find(Search(digest=digest_of(digest)), limit)

    def of_name(self, name: str) -> list[tuple[Entry, Evidence]]:
        """Recent receipts that have a file of this name as evidence, whatever was in it. Raises LedgerError."""
        words = tuple(words_of(name))
        named = self.find(Search(terms=(Term(words),)), 20) if words else []
        return [(one, file) for one in named if one.receipt for file in one.receipt.evidence if file.name == name]

    def close(self) -> None:
        """Give up what is open."""
        self._forget()

    def _forget(self) -> None:
        """Look anew at the next question: what was seen before is out of date."""
        self.__dict__.pop("view", None)
        index, self._index = self._index, None
        if index is not None:
            index.close()

    def __enter__(self) -> Remembrancer:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def _read(self, look: Callable[[], list[Found]]) -> list[Entry]:
        """The entries that the index names; it is made anew once where it does not agree with the log."""
        named = look()
        entries = [self.at(one.leaf) for one in named]
        if any(one.hash != entry.hash for one, entry in zip(named, entries, strict=True)):
            self._told(f"the index {self.index.place} does not agree with the log: it is built anew")
            self.index.rebuild(self._progress)
            entries = [self.at(one.leaf) for one in look()]
        return entries


def evidence_of(path: Path) -> Evidence:
    """A file's name, SHA-256 and size. Raises LedgerError."""
    size = 0
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
                size += len(piece)
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read: {error.strerror}") from None
    return Evidence(name=path.resolve().name, digest=f"sha256:{digest.hexdigest()}", size=size)


def _resource(evidence: Evidence) -> Resource:
    return Resource(name=evidence.name, digest={"sha256": evidence.digest.removeprefix("sha256:")})
