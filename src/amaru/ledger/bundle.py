"""Proof bundles: all that a stranger needs to check one receipt offline, in one file.

What holds is told apart from what is trusted: a bundle brings the keys that it was signed with, and whose they are
cannot be seen from it. ``Trust`` says what the verifier knows from elsewhere.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec

from amaru.errors import LedgerError, ProofError
from amaru.ledger.attestation import verify_attestation
from amaru.ledger.bundle_contents import CHECKPOINT, Contents, Signature, Stamp, Subject, read_contents
from amaru.ledger.canonical import require_canonical
from amaru.ledger.checkpoint import Checkpoint, read_checkpoint
from amaru.ledger.gpg import with_public_keys
from amaru.ledger.merkle import leaf_hash, verify_inclusion
from amaru.ledger.notes import verify_note
from amaru.ledger.timestamps import (
    Data,
    Roots,
    Sha256,
    digest_of,
    parse_roots,
    read_timestamp,
    require_imprint,
    verify_timestamp,
)
from amaru.ledger.tlog_proof import TlogProof, parse_tlog_proof
from amaru.ledger.troubles import AnchorError
from amaru.ledger.trust import NOTHING, Trust
from amaru.telemetry.redaction import in_one_line

__all__ = [
    "Contents",
    "Finding",
    "Report",
    "Required",
    "Signature",
    "Stamp",
    "Trust",
    "Verdict",
    "export_proof",
    "prove",
    "verify_proof",
]


_BY_ITSELF = frozenset(("entry", "inclusion", "artifact"))
"""Pieces that rest on SHA-256 alone, not on anyone's key."""


class Verdict(enum.Enum):
    """What came of checking a piece."""

    HOLDS = "holds"
    UNTRUSTED = "untrusted"
    """It holds by itself, but by a key that is not among those that the verifier trusts."""
    UNCHECKED = "unchecked"
    """Something that is needed to check it is not here."""
    FAILS = "fails"


class Required(enum.Enum):
    """What a verifier may demand beside the log's signature, by a key that they trust: whoever hands a bundle on can
    leave it out, and can put in one of their own."""

    ATTESTATION = "attestation"
    SIGNATURE = "signature"
    TIMESTAMP = "timestamp"


class Finding(msgspec.Struct, frozen=True):
    """One piece: which, what came of it, and why, in words.

    ``trusted``: it rests on what the verifier brought; else on what came in the bundle, or on nothing but itself.
    """

    piece: str
    verdict: Verdict
    words: str
    trusted: bool = False


class Report(msgspec.Struct, frozen=True):
    """What a bundle proves.

    ``entry`` is the leaf, ``leaf`` its hash, ``index`` its number in the log; the proof leads to ``checkpoint``.
    """

    entry: bytes
    leaf: bytes
    index: int
    checkpoint: Checkpoint
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing fails. What is unchecked, or by a key that is not trusted, is told, and proves nothing."""
        return not self.failures

    @property
    def failures(self) -> tuple[Finding, ...]:
        """What does not hold."""
        return tuple(finding for finding in self.findings if finding.verdict is Verdict.FAILS)

    @property
    def trusted(self) -> bool:
        """Whether the log's key is one that the verifier trusts, so that the proof is about the log that they mean."""
        return any(one.trusted for one in self.findings if one.piece == CHECKPOINT and one.verdict is Verdict.HOLDS)

    @property
    def sure(self) -> bool:
        """Whether every piece holds, and what rests on a key rests on one that the verifier trusts."""
        return self.trusted and all(
            one.verdict is Verdict.HOLDS and (one.trusted or one.piece in _BY_ITSELF) for one in self.findings
        )


class HasPath(Protocol):
    """An inclusion proof."""

    @property
    def path(self) -> tuple[bytes, ...]: ...


class Provable(Protocol):
    """A log, as far as a proof needs it: see ``view.LogView``."""

    def inclusion(self, index: int, size: int | None = None) -> HasPath: ...
    def checkpoint(self) -> bytes: ...


def prove(log: Provable, index: int, checkpoint: bytes | None = None) -> bytes:
    """The tlog-proof file of a leaf under ``checkpoint``, one that the log once published; by default its newest.

    An older one is chosen where that is the one which was signed or time-stamped.

    Raises
    ------
    ProofError
        That checkpoint does not cover the leaf.
    LedgerError
        The log cannot be read.
    """
    note = log.checkpoint() if checkpoint is None else checkpoint
    return TlogProof(index, log.inclusion(index, read_checkpoint(note).size).path, note).encode()


def export_proof(contents: Contents) -> bytes:
    """The bundle of these pieces: the same bytes for the same pieces.

    Raises
    ------
    ProofError
        The receipt does not stand under that checkpoint, or none of the keys signed it: nobody could verify it.
    LedgerError
        There is more than a bundle may hold.
    """
    proof = parse_tlog_proof(contents.proof)
    proof.verify(leaf_hash(contents.entry), contents.verifiers)
    return contents.pack()


def verify_proof(
    bundle: bytes,
    trust: Trust = NOTHING,
    *,
    now: datetime,
    as_of_stamp: bool = False,
    artifact: Path | None = None,
    required: Collection[Required] = (),
    gpg_program: str = "gpg",
) -> Report:
    """Check a bundle, offline, piece by piece.

    Parameters
    ----------
    bundle
        The file's bytes.
    trust
        What the verifier knows from elsewhere.
    now
        When the certificates of time-stamping authorities must be valid; see ``timestamps.verify_timestamp``.
    as_of_stamp
        They need only have been valid at the stamps' own times.
    artifact
        The file that the receipt is about, where it is at hand.
    required
        What must be there and hold by what ``trust`` names; else it is told as failing, and ``ok`` is False.
    gpg_program
        Name or path of gpg.

    Returns
    -------
    What each piece proves. ``ok`` says whether none fails, ``trusted`` whether the log's key is one to trust.

    Raises
    ------
    ProofError
        It is no bundle, or not one of this format; the words say what is wrong.
    """
    contents, own_help = read_contents(bundle)
    proof = parse_tlog_proof(contents.proof)
    checkpoint = read_checkpoint(proof.checkpoint)
    at = None if as_of_stamp else now
    findings = list(_Checks(contents, proof, trust, at, artifact, frozenset(required), gpg_program).all())
    if not own_help:
        words = "README.txt or check.py is of another version or hand than this amaru: do not run it unread"
        findings.append(Finding("help", Verdict.UNCHECKED, words))
    return Report(contents.entry, leaf_hash(contents.entry), proof.index, checkpoint, tuple(findings))


class _Checks:
    """The checks of one bundle, in the order in which they are told."""

    def __init__(
        self,
        contents: Contents,
        proof: TlogProof,
        trust: Trust,
        at: datetime | None,
        artifact: Path | None,
        required: frozenset[Required],
        gpg: str,
    ) -> None:
        self._contents = contents
        self._proof = proof
        self._trust = trust
        self._verifiers = trust.verifiers or contents.verifiers
        self._at = at
        self._artifact = artifact
        self._required = required
        self._gpg = gpg

    def all(self) -> Iterator[Finding]:
        """What each piece proves."""
        of_log = bool(self._trust.verifiers)
        yield _checked("entry", self._canonical)
        yield _checked("inclusion", self._included)
        yield _checked(CHECKPOINT, self._signed_by_log, trusted=of_log)
        if self._artifact is not None:
            yield _checked("artifact", self._is_the_artifact)
        there = self._contents.attestation is not None
        attested = [_checked("attestation.json", self._attested, trusted=of_log)] if there else []
        yield from attested
        if Required.ATTESTATION in self._required:
            yield from self._vouched(Required.ATTESTATION, "attestation", attested, "a key of the log", of_log)
        signatures = [self._signature(number, one) for number, one in enumerate(self._contents.signatures, 1)]
        yield from signatures
        yield from self._vouched(Required.SIGNATURE, "signatures", signatures, "a GPG key", bool(self._trust.gpg))
        stamps = [self._stamp(number, one) for number, one in enumerate(self._contents.timestamps, 1)]
        yield from stamps
        yield from self._vouched(Required.TIMESTAMP, "timestamps", stamps, "an authority", bool(self._trust.roots))

    def _vouched(
        self, kind: Required, piece: str, found: Sequence[Finding], whose: str, known: bool
    ) -> Iterator[Finding]:
        """Fails where none holds by whom the verifier trusts, though it is required, or is there and keys are known."""
        required = kind in self._required
        if any(one.trusted for one in found) or not (required or (found and known)):
            return
        words = f"none holds by {whose} that you trust"
        if not found:
            words = f"no {kind.value} is there"
        elif not known:
            words = f"to hold, it takes {whose} that you trust, and you named none"
        yield Finding(piece, Verdict.FAILS, f"required: {words}" if required else words)

    # ---- the log ----------------------------------------------------------------------------------------------------

    def _canonical(self) -> str:
        require_canonical(self._contents.entry)
        return f"canonical JSON (RFC 8785), {len(self._contents.entry):,} bytes"

    def _included(self) -> str:
        checkpoint = read_checkpoint(self._proof.checkpoint)
        leaf = leaf_hash(self._contents.entry)
        verify_inclusion(leaf, self._proof.index, checkpoint.size, self._proof.path, checkpoint.root)
        return f"number {self._proof.index:,} of the {checkpoint.size:,} entries of {checkpoint.origin}"

    def _signed_by_log(self) -> str:
        _, signers = verify_note(self._proof.checkpoint, self._verifiers)
        names = ", ".join(f"{signer.name} (key {signer.key_id.hex()})" for signer in signers)
        if self._trust.verifiers:
            return f"signed by {names}, which you trust"
        return f"signed by {names}, a key that came in the bundle: compare it with what the log's operator publishes"

    def _is_the_artifact(self) -> str:
        assert self._artifact is not None
        digest, logged = digest_of(self._artifact, "sha256"), self._contents.digest
        if logged is None:
            raise ProofError("the receipt names no digest of an artifact")
        if digest != logged:
            raise ProofError(
                f"{self._artifact} is not what the receipt is about: its SHA-256 is {digest.hex()}, "
                f"the receipt's is {logged.hex()}"
            )
        return f"{self._artifact} is what the receipt is about: sha256:{digest.hex()}"

    def _attested(self) -> str:
        digest = self._contents.digest
        envelope = self._contents.attestation or b""
        statement = verify_attestation(envelope, self._verifiers, sha256=digest.hex() if digest else None)
        return f"{in_one_line(statement.predicate_type)}, signed with the log's key"

    # ---- beyond the log's key ---------------------------------------------------------------------------------------

    def _signature(self, number: int, signature: Signature) -> Finding:
        piece = f"signatures/{signature.on}.{number}.asc"
        data = self._subject(signature.on)
        if data is None:
            return Finding(piece, Verdict.UNCHECKED, "to check it, give the artifact that it signs")
        try:
            with with_public_keys([signature.public_key], program=self._gpg) as gpg:
                signer = gpg.verify(data, signature.signature)
        except AnchorError as error:
            return Finding(piece, Verdict.UNCHECKED, str(error))
        except ProofError as error:
            return Finding(piece, Verdict.FAILS, str(error))
        words = (
            f"signed by {signer.user_id} (key {signer.fingerprint}) at {signer.at:%Y-%m-%d %H:%M:%S} UTC by their clock"
        )
        if not self._trust.gpg:
            return Finding(piece, Verdict.HOLDS, f"{words}; the key came in the bundle: compare its fingerprint")
        if signer.fingerprint in self._trust.gpg:
            return Finding(piece, Verdict.HOLDS, f"{words}, whom you trust", trusted=True)
        return Finding(piece, Verdict.UNTRUSTED, f"{words}, who is not among those that you trust")

    def _stamp(self, number: int, stamp: Stamp) -> Finding:
        piece = f"timestamps/{stamp.on}.{number}.tsr"
        data: Data | None = self._subject(stamp.on)
        if data is None:
            data = self._known_digest()
        if data is None:
            return Finding(piece, Verdict.UNCHECKED, "to check it, give the artifact that it stamps")
        failure: ProofError | None = None
        for trusted, roots in ((True, lambda: self._trust.roots), (False, self._roots_in_bundle)):
            try:
                told = self._told(stamp, data, roots())
            except ProofError as error:
                failure = failure or error
                continue
            if told is not None:
                return self._holds(piece, told, trusted)
        if failure is None:  # there are no roots; that it is over something else can be seen without them
            try:
                require_imprint(read_timestamp(stamp.response), data)
            except ProofError as error:
                failure = error
        if failure is not None:
            return Finding(piece, Verdict.FAILS, str(failure))
        return Finding(piece, Verdict.UNCHECKED, "to check it, give the root certificates of its authority")

    def _told(self, stamp: Stamp, data: Data, roots: Roots) -> str | None:
        """What a time-stamp says, where these roots vouch for it; ``None``: there are none."""
        if not roots:
            return None
        read = verify_timestamp(stamp.response, data, roots, at=self._at)
        return f"existed at {read.time:%Y-%m-%d %H:%M:%S} UTC, says {read.authority} (certificate {read.fingerprint})"

    def _holds(self, piece: str, told: str, trusted: bool) -> Finding:
        if trusted:
            return Finding(piece, Verdict.HOLDS, f"{told}, which you trust", trusted=True)
        if self._trust.roots:
            return Finding(piece, Verdict.UNTRUSTED, f"{told}, which is not among those that you trust")
        words = f"{told}; its roots came in the bundle: compare them with what the authority publishes"
        return Finding(piece, Verdict.HOLDS, words)

    def _roots_in_bundle(self) -> Roots:
        return parse_roots(self._contents.certificates) if self._contents.certificates else ()

    def _subject(self, on: Subject) -> bytes | Path | None:
        """What is signed or stamped, where it is at hand."""
        return {"checkpoint": self._proof.checkpoint, "entry": self._contents.entry, "artifact": self._artifact}[on]

    def _known_digest(self) -> Sha256 | None:
        return Sha256(self._contents.digest) if self._contents.digest is not None else None


def _checked(piece: str, check: Callable[[], str], *, trusted: bool = False) -> Finding:
    try:
        return Finding(piece, Verdict.HOLDS, check(), trusted)
    except LedgerError as error:
        return Finding(piece, Verdict.FAILS, str(error))
