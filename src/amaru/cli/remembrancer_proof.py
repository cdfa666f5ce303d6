"""``remembrancer sign``, ``timestamp``, ``verify-full``, ``export-proof``, ``verify-proof`` and ``verify-audit``."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amaru.cli.remembrancer_report import print_audit, print_reports
from amaru.cli.remembrancer_session import (
    AsJson,
    Ledger,
    Progress,
    Trusting,
    at_ledger,
    outcomes,
    print_json,
    session,
    tell,
)

if TYPE_CHECKING:
    from amaru.ledger.bundle import Required
    from amaru.ledger.remembrancer import Entry, Remembrancer

Target = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help="A file; left out: the log's newest checkpoint.", show_default=False),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit with 3 unless all of it holds by what you trust yourself.")
]
Demanded = Annotated[
    str,
    typer.Option(
        "--require", metavar="WHAT",
        help="Exit with 3 unless there is a timestamp, signature, attestation by whom you trust; with commas.",
    ),
]  # fmt: skip
AsOfStamp = Annotated[
    bool,
    typer.Option("--as-of-stamp", help="Certificates of authorities need only have been valid when they stamped."),
]


def sign(
    file: Target = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", show_default=False, envvar="AMARU_GPG_KEY",
            help="Fingerprint, id or address of your key; by default gpg's own choice.",
        ),
    ] = None,
    ledger: Ledger = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Sign a file, or the log's newest checkpoint, with your GPG key.

    The signature is written beside the file as FILE.asc and kept with the ledger, from where export-proof takes it.
    """
    with session(ledger, as_json) as it:
        from amaru.ledger.gpg import Gpg
        from amaru.ledger.place import trust_also
        from amaru.ledger.proofs import Proofs

        gpg = Gpg()
        subject, data, shown = _subject(it, file)
        signed = gpg.sign(data, key)
        public_key = gpg.public_key(signed.fingerprint)
        Proofs(it.view.store).keep_signature(subject, signed.signature, public_key, checkpoint=file is None)
        fingerprint = gpg.verify(data, signed.signature).fingerprint  # of the primary key, by which others trust
        trust_also(it.place, f"gpg {fingerprint}")
        beside = _write_beside(file, ".asc", signed.signature)
        _print_got(it, file, shown, f"signed by {fingerprint}", beside, ledger, as_json)


def timestamp(
    file: Target = None,
    tsa: Annotated[
        str | None,
        typer.Option(metavar="URL", envvar="AMARU_TSA_URL", help="The authority's address.", show_default=False),
    ] = None,
    roots: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", envvar="AMARU_TSA_ROOTS", show_default=False,
            help="Its root certificates, PEM; trusted from then on.",
        ),
    ] = None,
    ledger: Ledger = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Have an authority (RFC 3161) attest that a file, or the log's newest checkpoint, exists now.

    Only its SHA-256 is sent. The answer is verified, written beside the file as FILE.tsr and kept with the ledger.
    """
    with session(ledger, as_json) as it:
        if tsa is None:
            raise typer.BadParameter("name the authority, here or in AMARU_TSA_URL", param_hint="--tsa")
        from cryptography.hazmat.primitives.serialization import Encoding

        from amaru.ledger.place import trust_also
        from amaru.ledger.proofs import Proofs
        from amaru.ledger.timestamps import Authority, read_roots, read_timestamp

        trusted = read_roots(roots) if roots is not None else it.trust.roots
        if not trusted:
            raise typer.BadParameter(
                "name a PEM file of the authority's root certificates, once, here or in AMARU_TSA_ROOTS",
                param_hint="--roots",
            )
        subject, data, shown = _subject(it, file)
        authority = Authority(tsa, trusted)
        try:
            response = authority.stamp(data)
        finally:
            authority.close()
        Proofs(it.view.store).keep_stamp(subject, response, checkpoint=file is None)
        for root in trusted:
            trust_also(it.place, root.public_bytes(Encoding.PEM).decode())
        stamp = read_timestamp(response)
        beside = _write_beside(file, ".tsr", response)
        told = f"existed at {stamp.time:%Y-%m-%d %H:%M:%S} UTC, says {stamp.authority}"
        _print_got(it, file, shown, told, beside, ledger, as_json)


def verify_full(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE|ID]", show_default=False,
            help="A file, or a receipt; left out: the last checkpoint that was signed or time-stamped.",
        ),
    ] = None,
    strict: Strict = False,
    require: Demanded = "",
    as_of_stamp: AsOfStamp = False,
    ledger: Ledger = None,
    trust: Trusting = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Check all that there is on a file or a receipt: entry, inclusion, checkpoint, attestation, signatures, stamps."""
    with session(ledger, as_json, trust) as it:
        from amaru.ledger.bundle import export_proof, verify_proof
        from amaru.ledger.proving import contents_of
        from amaru.ledger.remembrancer import evidence_of
        from amaru.ledger.search import digest_of

        required = _required(require)
        entries, artifact = _meant(it, target)
        now = datetime.datetime.fromtimestamp(it.now(), datetime.UTC)
        digest = None if artifact is None else digest_of(evidence_of(artifact).digest)
        reports = []
        for entry in entries:
            contents = contents_of(it.view, entry, it.trust)
            # A file may be a receipt's evidence without being what it is about; then its name by digest is all.
            about = artifact if contents.digest == digest else None
            bundle = export_proof(contents)
            reports.append(
                verify_proof(bundle, it.trust, now=now, as_of_stamp=as_of_stamp, artifact=about, required=required)
            )
        print_reports(reports, as_json, strict=strict)


def export_proof(
    id: Annotated[str, typer.Argument(metavar="ID", help="The receipt's id, 8 digits of it or more, or #PLACE.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="BUNDLE", help="The file to write: proof.zip.")],
    ledger: Ledger = None,
    trust: Trusting = None,
    as_json: AsJson = False,
) -> None:
    """Write all that a stranger needs to check a receipt, offline and without amaru's data, to one ZIP file."""
    with session(ledger, as_json, trust) as it:
        from amaru.errors import LedgerError
        from amaru.files.whole import remedied, write_whole
        from amaru.ledger.bundle import export_proof as bundle_of
        from amaru.ledger.proving import contents_of

        entry = it.get(id)
        contents = contents_of(it.view, entry, it.trust)
        content = bundle_of(contents)
        try:
            write_whole(out, content)
        except OSError as error:
            raise LedgerError(f"{out}: cannot be written: {remedied(error)}") from None
        signatures, stamps = len(contents.signatures), len(contents.timestamps)
        if as_json:
            print_json({"bundle": str(out), "bytes": len(content), "id": entry.id, "index": entry.leaf,
                        "signatures": signatures, "timestamps": stamps})  # fmt: skip
            return
        typer.echo(f"Wrote {out} ({len(content):,} B): receipt {entry.id[:12]}, its inclusion, the signed checkpoint,")
        typer.echo(f"signatures by GPG: {signatures}, time-stamps: {stamps}. Its README.txt says how to check each.")
        if not signatures and not stamps:
            typer.echo("It rests on the log's own key alone; `sign` and `timestamp` add others' word.")
        typer.echo(f"Check it: remembrancer verify-proof {out}")


def verify_proof(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What export-proof wrote.")],
    artifact: Annotated[
        Path | None,
        typer.Option("--artifact", metavar="FILE", help="The file that the receipt is about.", show_default=False),
    ] = None,
    strict: Strict = False,
    require: Demanded = "",
    as_of_stamp: AsOfStamp = False,
    trust: Trusting = None,
    as_json: AsJson = False,
) -> None:
    """Check a bundle, offline; no ledger is needed. Says of each piece whether it holds, and by whose word."""
    with outcomes(as_json):
        from amaru.errors import LedgerError, ProofError
        from amaru.ledger.bundle import verify_proof as check
        from amaru.ledger.bundle_contents import MAX_BUNDLE_BYTES
        from amaru.ledger.trust import NOTHING, read_trust

        required = _required(require)
        try:
            with bundle.open("rb") as file:
                content = file.read(MAX_BUNDLE_BYTES + 1)
        except OSError as error:
            raise LedgerError(f"{bundle}: cannot be read: {error.strerror}") from None
        trusted = read_trust(trust) if trust is not None else NOTHING
        now = datetime.datetime.now(datetime.UTC)
        try:
            report = check(content, trusted, now=now, as_of_stamp=as_of_stamp, artifact=artifact, required=required)
        except ProofError as error:
            raise ProofError(f"{bundle} is no bundle as export-proof writes them: {error}") from None
        print_reports([report], as_json, strict=strict)


def verify_audit(
    witness: Annotated[
        list[Path] | None,
        typer.Option(
            "--witness", metavar="FILE", show_default=False,
            help="A checkpoint that was kept elsewhere, to hold the log to; may be repeated.",
        ),
    ] = None,
    ledger: Ledger = None,
    trust: Trusting = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Recompute every tile from the entries, hold every checkpoint to them, and name the first leaf at fault.

    The last checkpoint that you saw is held against the log, too.
    """
    with session(ledger, as_json, trust) as it:
        from amaru.ledger.audit import audit
        from amaru.ledger.tile_store import open_store

        witnessed = [
            _witness(path) for path in (*(witness or ()), *([it.place.seen] if it.place.seen.exists() else ()))
        ]
        report = audit(open_store(it.place.url), it.trust.verifiers, witnessed=witnessed, progress=Progress("auditing"))
        print_audit(report, as_json)


def _required(words: str) -> frozenset[Required]:
    """What is demanded. Raises BadParameter: a word is none of the three."""
    from amaru.ledger.bundle import Required

    known = {one.value: one for one in Required}
    given = [word.strip() for word in words.split(",") if word.strip()]
    unknown = next((word for word in given if word not in known), None)
    if unknown is not None:
        raise typer.BadParameter(f"{unknown[:40]!r} is none of {', '.join(known)}", param_hint="--require")
    return frozenset(known[word] for word in given)


def _witness(path: Path) -> bytes:
    """A checkpoint that was kept. Raises LedgerError: it is none; whether it is the log's, the audit says."""
    from amaru.errors import LedgerError, ProofError
    from amaru.ledger.checkpoint import read_checkpoint
    from amaru.ledger.notes import MAX_NOTE_BYTES

    try:
        with path.open("rb") as file:
            note = file.read(MAX_NOTE_BYTES + 1)
        read_checkpoint(note)
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read: {error.strerror}") from None
    except ProofError as error:
        raise LedgerError(f"{path}: is no signed checkpoint, as a log's file `checkpoint` is one: {error}") from None
    return note


def _subject(it: Remembrancer, file: Path | None) -> tuple[bytes, Any, str]:  # Any: bytes, or a path
    """What signatures are kept under, what is signed, and how it is called."""
    if file is None:
        from amaru.ledger.proofs import Proofs

        note = Proofs(it.view.store).note_for(it.view)
        return note, note, f"The checkpoint of {it.view.size:,} receipts"
    from amaru.ledger.remembrancer import evidence_of

    return bytes.fromhex(evidence_of(file).digest.removeprefix("sha256:")), file, str(file)


def _write_beside(file: Path | None, suffix: str, content: bytes) -> Path | None:
    """Write FILE.asc or FILE.tsr where there is none; another's is left alone. Raises LedgerError."""
    if file is None:
        return None
    from amaru.errors import LedgerError
    from amaru.files.whole import make_whole, remedied

    path = file.with_name(f"{file.name}{suffix}")
    try:
        make_whole(path, content)
    except FileExistsError:
        tell(f"{path} is there already and was left as it is; the ledger has the new one")
        return None
    except OSError as error:
        raise LedgerError(f"{path}: cannot be written: {remedied(error)}. The ledger has it all the same") from None
    return path


def _print_got(
    it: Remembrancer, file: Path | None, shown: str, told: str, beside: Path | None, ledger: str | None, as_json: bool
) -> None:
    from amaru.ledger.remembrancer import evidence_of

    known = file is None or bool(it.of_file(evidence_of(file).digest, 1))
    if as_json:
        print_json({"of": shown, "told": told, "written": None if beside is None else str(beside), "recorded": known,
                    "checkpoint": _subject(it, None)[0].decode() if file is None else None})  # fmt: skip
        return
    typer.echo(f"{shown}: {told}.")
    if beside is not None:
        typer.echo(f"Wrote {beside}.")
    if not known:
        typer.echo(f"No receipt names this file yet: remembrancer record … --evidence {file}{at_ledger(ledger)}")
    typer.echo(f"Check it: remembrancer verify-full{'' if file is None else f' {file}'}{at_ledger(ledger)}")


def _meant(it: Remembrancer, target: str | None) -> tuple[list[Entry], Path | None]:
    """The receipts that are meant, and the file that they are about, where that is at hand. Raises NoReceipt."""
    from amaru.ledger.checkpoint import read_checkpoint
    from amaru.ledger.proofs import Proofs
    from amaru.ledger.remembrancer import NoReceipt, evidence_of

    if target is None:
        note = Proofs(it.view.store).latest() or it.view.checkpoint()
        if not it.view.size:
            raise NoReceipt("this log is empty: there is nothing to check yet")
        return [it.at(read_checkpoint(note).size - 1)], None
    path = Path(target)
    if not path.is_file():
        try:
            return [it.get(target)], None
        except NoReceipt as error:
            raise NoReceipt(f"there is no file {target}, and as a receipt: {error}") from None
    entries = it.of_file(evidence_of(path).digest, 100)
    if not entries:
        raise NoReceipt(f"{target}: no receipt in this log names this file: it was never recorded, or changed since")
    return entries, path
