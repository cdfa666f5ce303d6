"""Where a ledger lies, and what belongs to it: the log, which anyone may read, and what its holder keeps to themselves.

Beside a log ``ledger/`` in a folder (named after its URL, in the data folder for one in a bucket, and in the user's own
for one beside which this user cannot write):

- ``ledger.keys/``, for its owner alone: ``signing-key``; ``trust``, the public keys and certificates that this user
  trusts; ``seen``, the last checkpoint that they saw, which every later one is held to; ``salt``, for HMACs of prompts;
- ``ledger.index.db``, the search index, which may be deleted at any time.

None of it lies in the log's own folder, which any HTTP server may serve. There, ``vkey`` holds the public keys, for
whoever has none from elsewhere.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from amaru.errors import LedgerBusy, LedgerCorrupt, LedgerError, ProofError
from amaru.files.whole import make_folder, make_whole, remedied, write_whole
from amaru.ledger.checkpoint import read_checkpoint, verify_checkpoint, verify_succession
from amaru.ledger.keys import add_key, load_signers, make_key, retire_key
from amaru.ledger.log import Log
from amaru.ledger.notes import NoteSigner, NoteVerifier
from amaru.ledger.tile_store import TileStore, open_store
from amaru.ledger.trust import NOTHING, Trust, parse_trust, read_trust
from amaru.ledger.view import CHECKPOINT, LogView

VKEY = "vkey"
"""File of the log's public keys, beside its ``checkpoint``."""
MAX_VKEY_BYTES = 64 * 1024
SALT_BYTES = 32
BUSY_S = 10.0
"""How long to wait for another that is recording; who serves holds the log for as long as it runs."""
RETRY_S = 0.05
_OWNERS = 0o700

_VKEY_HEAD = "# Public keys of this log, as C2SP signed-note writes them. Have them from elsewhere too, if you can.\n"


@dataclass(frozen=True)
class Place:
    """A log's URL or path, its keys' folder, and where its index lies."""

    url: str
    keys: Path
    index: str

    @classmethod
    def of(cls, url: str, data: Path, *, index: str | None = None) -> Place:
        """The usual places for the log at ``url``; of one that is not in a folder, in ``data``."""
        scheme, separator, rest = url.partition("://")
        path = Path(rest if scheme == "file" and separator else url)
        base = path
        if separator and scheme != "file":
            base = data / _named_after(url)
        elif path.parent.is_dir() and not os.access(path.parent, os.W_OK):
            base = _state() / _named_after(str(path.absolute()))
        return cls(url, base.with_name(f"{base.name}.keys"), index or str(base.with_name(f"{base.name}.index.db")))

    @property
    def signing_key(self) -> Path:
        return self.keys / "signing-key"

    @property
    def trust(self) -> Path:
        return self.keys / "trust"

    @property
    def seen(self) -> Path:
        return self.keys / "seen"

    @property
    def salt(self) -> Path:
        return self.keys / "salt"


def exists(place: Place) -> bool:
    """There is a log. Raises LedgerError where that cannot be told."""
    return open_store(place.url).read(CHECKPOINT, most=1 << 20) is not None


def found(place: Place, name: str | None = None) -> NoteSigner | None:
    """Make the signing key of a log that is not there yet, and say which; ``None``: there is one.

    ``name`` becomes the log's origin; by default, one that no other log has. A process that is killed meanwhile leaves
    a whole key or none. Raises LedgerError.
    """
    if place.signing_key.exists():
        return None
    if exists(place):
        raise LedgerError(
            f"{place.url}: this log is signed by a key that is not in {place.keys}; only who holds it can record there"
        )
    signer_name = name or f"{_host()}/ledger-{secrets.token_hex(4)}"
    NoteSigner.generate(signer_name)  # refuses a name that no key may have, before anything is made
    try:
        make_folder(place.keys, _OWNERS)
    except OSError as error:
        raise LedgerError(f"{place.keys}: the folder of keys cannot be made: {remedied(error)}") from None
    try:
        signer = make_key(place.signing_key, signer_name)
    except LedgerError:
        if place.signing_key.exists():
            return None  # another process has just made it
        raise
    trust_also(place, signer.verifier.vkey)
    return signer


def open_log(place: Place, *, wait_s: float = BUSY_S, sleep: Callable[[float], None] = time.sleep) -> Log:
    """The log, to record in; its key must be there. Waits for another writer, at most ``wait_s``.

    Raises LedgerBusy, LedgerError, and whatever ``Log.open`` does; LedgerCorrupt where it is not what was seen before.
    """
    signers = load_signers(place.signing_key)
    known = read_trust(place.trust).verifiers if place.trust.exists() else ()
    for signer in signers:
        if signer.verifier not in known:  # a kill came between making the key and knowing it
            with suppress(LedgerError):  # a folder of keys may be read-only
                trust_also(place, signer.verifier.vkey)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            log = Log.open(place.url, signers, origin=signers[0].name, verifiers=known)
            break
        except LedgerBusy as error:
            if time.monotonic() >= deadline:
                raise LedgerBusy(
                    f"{error}. Waited {wait_s:g} s for it: end it, or use a log of your own (--ledger)"
                ) from None
            sleep(RETRY_S)
    try:
        _hold_to_seen(place, log)
        publish_keys(log.store, [*known, *(signer.verifier for signer in signers)])
    except BaseException:
        log.close()
        raise
    return log


def _hold_to_seen(place: Place, log: Log) -> None:
    """Write on no older state of a log, and on no other one: its key would sign two histories of one name."""
    seen = _read(place.seen)
    try:
        if seen:
            old = verify_checkpoint(seen, log.verifiers, origin=log.origin)
            verify_succession(old, log.head, log.consistency(old.size) if old.size <= log.size else ())
    except ProofError as error:
        raise LedgerCorrupt(
            f"{log.store.shown}: {error}. So it was when it was seen last ({place.seen}): mount or restore what was "
            f"there then. To begin another log, move {place.keys} away, since it needs a key of its own"
        ) from None
    note_seen(place, log.checkpoint())


def note_seen(place: Place, note: bytes) -> None:
    """Have every later state of the log held to this checkpoint, which was itself held to what was seen before."""
    if note != _read(place.seen):
        with suppress(OSError):  # reading needs no room on a disk; it is held to the older one next time
            make_folder(place.keys, _OWNERS)
            write_whole(place.seen, note)


def open_view(place: Place, verifiers: Sequence[NoteVerifier]) -> LogView:
    """The log, to read, held to these keys and to the last checkpoint that this user saw.

    Raises
    ------
    LedgerError
        There is no log, or it cannot be read.
    ProofError
        Its checkpoint is forged, or not a later state of what was seen before; the message names the case.
    """
    view = LogView(open_store(place.url), verifiers)
    seen = _read(place.seen)
    try:
        if seen:
            view.origin = read_checkpoint(seen).origin
            view.stand_at(seen)
        view.refresh()
    except ProofError as error:
        if not seen:
            raise
        raise ProofError(
            f"{error}. It was held to the checkpoint that was seen last, {place.seen}; remove that only where the log "
            "was made anew on purpose"
        ) from None
    note_seen(place, view.checkpoint())
    return view


def rotate(place: Place) -> NoteSigner:
    """Have a new key sign beside the old one, from the next opening of the log on. Raises LedgerError."""
    added = add_key(place.signing_key)
    trust_also(place, added.verifier.vkey)
    return added


def retire(place: Place, key_id: bytes) -> None:
    """Have a key sign no more; what it signed stays verified by it. Raises LedgerError."""
    retire_key(place.signing_key, key_id)


def publish_keys(store: TileStore, verifiers: Sequence[NoteVerifier]) -> None:
    """Have ``vkey`` beside the log name these keys. Raises LedgerError."""
    content = (_VKEY_HEAD + "".join(f"{one.vkey}\n" for one in dict.fromkeys(verifiers))).encode()
    if store.read(VKEY, most=MAX_VKEY_BYTES) != content:
        store.write(VKEY, content)
        store.sync()


def load_salt(place: Place) -> bytes:
    """The salt of this ledger's HMACs, made on first use, for its owner alone. Raises LedgerError."""
    try:
        if not place.salt.exists():
            make_folder(place.keys, _OWNERS)
            with suppress(FileExistsError):  # another process has just made it
                make_whole(place.salt, secrets.token_bytes(SALT_BYTES), mode=0o600)
    except OSError as error:
        raise LedgerError(f"{place.salt}: the salt cannot be made: {remedied(error)}") from None
    return read_salt(place)


def read_salt(place: Place) -> bytes:
    """The salt as it is there; none is made. Raises LedgerError: there is none, or it is not for this user."""
    try:
        salt = place.salt.read_bytes()
    except FileNotFoundError:
        raise LedgerError(
            f"{place.salt}: there is no salt, without which no prompt's mark can be told: restore it, or name the "
            "gateway's own ledger (--ledger)"
        ) from None
    except OSError as error:
        raise LedgerError(
            f"{place.salt}: the salt cannot be read: {error.strerror}; it is for the ledger's owner alone"
        ) from None
    if len(salt) != SALT_BYTES:
        raise LedgerError(
            f"{place.salt}: holds {len(salt)} bytes, not {SALT_BYTES}: restore it; or remove it, and which prompts "
            "were the same can no longer be told across that"
        )
    return salt


def trust_of(place: Place) -> tuple[Trust, str]:
    """What this user trusts about the log, and where it is known from, in words. Raises LedgerError: nothing is."""
    own = read_trust(place.trust) if place.trust.exists() else NOTHING
    if own.verifiers:
        return own, f"what {place.trust} holds"
    store = open_store(place.url)
    content = store.read(VKEY, most=MAX_VKEY_BYTES)
    if content is None:
        if store.read(CHECKPOINT, most=1 << 20) is None:
            raise LedgerError(f"{place.url}: there is no ledger yet; `remembrancer init` or the first record makes one")
        raise LedgerError(f"{store.shown}: no key of this log is known; give one with --trust FILE")
    told = "the keys that lie beside the log, which proves nothing about who made it: --trust holds it to yours"
    beside = parse_trust(content.decode("utf-8", "replace"), where=f"{store.shown}/{VKEY}")
    return Trust(beside.verifiers, own.gpg, own.roots), told


def trust_also(place: Place, text: str) -> None:
    """Trust what a line or a certificate says, from now on: a vkey, ``gpg FINGERPRINT``, PEM. Raises LedgerError."""
    parse_trust(text, where="what is to be trusted")
    known = _read(place.trust).decode("utf-8", "replace")
    if text.strip() in known:
        return
    try:
        make_folder(place.keys, _OWNERS)
        write_whole(place.trust, f"{known}{text.strip()}\n".encode())
    except OSError as error:
        raise LedgerError(f"{place.trust}: cannot be written: {remedied(error)}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read: {error.strerror}") from None


def _named_after(url: str) -> str:
    return f"ledger-{sha256(url.encode()).hexdigest()[:8]}"


def _state() -> Path:
    """The user's folder for what programs remember (XDG base directories)."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "amaru"


def _host() -> str:
    name = socket.gethostname().split(".")[0]
    return "".join(char for char in name if char.isascii() and (char.isalnum() or char == "-")) or "amaru"
