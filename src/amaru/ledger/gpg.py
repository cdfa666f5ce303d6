"""Detached OpenPGP signatures (RFC 4880), by the gpg program: keys stay where gpg and its agent keep them.

What gpg says is read from its status lines, which are made for programs (GnuPG's ``doc/DETAILS``), never from its
messages.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from amaru.errors import ProofError
from amaru.ledger.troubles import AnchorError, Trouble
from amaru.telemetry.redaction import in_one_line

LIMIT_S = 60.0
"""A call of gpg that takes longer has failed."""
SIGN_LIMIT_S = 300.0
"""Signing may wait for a person and a passphrase."""
MAX_SIGNATURE_BYTES = 64 * 1024
MAX_PUBLIC_KEY_BYTES = 1024 * 1024

_STRONG_HASHES = {"8": "SHA-256", "9": "SHA-384", "10": "SHA-512", "11": "SHA-224", "12": "SHA3-256", "14": "SHA3-512"}
"""By OpenPGP's numbers; RFC 9580 section 9.5. Older ones can be forged."""
_BINARY_SIGNATURE = "00"
"""Over the bytes as they are; a text signature (01) does not see every change of line ends."""

Data = bytes | Path
"""What is signed: itself, or the file that holds it."""


class SecretKey(msgspec.Struct, frozen=True):
    """A key that this user can sign with: its fingerprint (hexadecimal) and first user id."""

    fingerprint: str
    user_id: str


class Signed(msgspec.Struct, frozen=True):
    """A signature made: ASCII-armoured; by the key, or subkey, with this fingerprint; at this instant."""

    signature: bytes
    fingerprint: str
    at: datetime


class Signer(msgspec.Struct, frozen=True):
    """Who made a good signature, and when by the signer's own clock.

    ``fingerprint`` is the primary key's; ``user_id`` is what the key says of its owner; ``validity`` is gpg's judgement
    of that: ``ultimate``, ``fully``, ``marginal``, ``undefined``, ``never``; ``None``: gpg was not asked.
    """

    fingerprint: str
    user_id: str
    at: datetime
    validity: str | None


class Gpg:
    """The gpg program with one home.

    Parameters
    ----------
    home
        gpg's home, where the keys are; ``None``: the environment's (``GNUPGHOME``, else ``~/.gnupg``).
    program
        Its name or path.
    options
        Given to every call, before all others.
    limit_s, sign_limit_s
        Seconds that a call may take, and one that signs.

    Raises
    ------
    AnchorError
        Here and below: gpg is missing, does not end in time, or cannot do what it is asked; with what to do.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        program: str = "gpg",
        options: Sequence[str] = (),
        limit_s: float = LIMIT_S,
        sign_limit_s: float = SIGN_LIMIT_S,
    ) -> None:
        self._home = home
        self._program = program
        self._options = tuple(options)
        self._limit_s = limit_s
        self._sign_limit_s = sign_limit_s

    def secret_keys(self, key: str | None = None) -> tuple[SecretKey, ...]:
        """The keys that can sign, all of them or those that ``key`` (fingerprint, key id, user id) names."""
        listed = self._run("--list-secret-keys", "--with-colons", "--", *([key] if key else []))
        return tuple(_listed_keys(listed.stdout)) if listed.returncode == 0 else ()

    def chosen(self, key: str | None = None) -> SecretKey | None:
        """The key that ``key`` names; ``None`` where gpg's own default is to be taken.

        Raises
        ------
        AnchorError
            There is no such key, or there are several.
        """
        keys = self.secret_keys(key)
        where = f"in {self._home}" if self._home is not None else "in gpg's home"
        if not keys and key is None:
            message = f"gpg has no key to sign with {where}; make one with `gpg --quick-generate-key`, or set GNUPGHOME"
            raise AnchorError(message, Trouble.AUTHENTICATION)
        if not keys:
            message = (
                f"gpg has no secret key {in_one_line(key or '')!r} {where}; `gpg --list-secret-keys` shows those it has"
            )
            raise AnchorError(message, Trouble.AUTHENTICATION)
        if key is not None and len(keys) > 1:
            those = ", ".join(f"{found.fingerprint} ({found.user_id})" for found in keys[:5])
            message = f"{in_one_line(key)!r} names {len(keys)} keys; give the fingerprint of one: {those}"
            raise AnchorError(message, Trouble.VALIDATION)
        return None if key is None else keys[0]

    def sign(self, data: Data, key: str | None = None) -> Signed:
        """A detached signature over ``data``, by ``key`` or gpg's default key. May wait for a passphrase."""
        chosen = self.chosen(key)
        with tempfile.TemporaryDirectory(prefix="amaru-gpg-") as folder:
            made = Path(folder) / "signature.asc"
            by = ["--local-user", chosen.fingerprint] if chosen is not None else []
            options = ["--status-fd", "1", "--armor", "--output", str(made), *by, "--detach-sign", "--"]
            done = self._run(*options, _path_of(data), stdin=_stdin_of(data), limit_s=self._sign_limit_s)
            created = [words for keyword, words in _statuses(done.stdout) if keyword == "SIG_CREATED"]
            if done.returncode != 0 or len(created) != 1 or len(created[0]) < 6:
                message = f"gpg made no signature: {_last_words(done.stderr)}"
                raise AnchorError(message, Trouble.AUTHENTICATION)
            signature = made.read_bytes()
        # D <public-key algorithm> <hash algorithm> <class> <timestamp> <fingerprint>
        return Signed(signature, created[0][5], _instant(created[0][4]))

    def public_key(self, fingerprint: str) -> bytes:
        """The public key, ASCII-armoured, without others' signatures on it: what a stranger needs to verify."""
        with tempfile.TemporaryDirectory(prefix="amaru-gpg-") as folder:
            made = Path(folder) / "key.asc"
            options = ["--armor", "--export-options", "export-minimal", "--output", str(made), "--export", "--"]
            done = self._run(*options, fingerprint)
            if done.returncode != 0 or not made.exists():
                message = f"gpg cannot export the key {in_one_line(fingerprint)}: {_last_words(done.stderr)}"
                raise AnchorError(message, Trouble.VALIDATION)
            return made.read_bytes()

    def verify(self, data: Data, signature: bytes) -> Signer:
        """Who signed ``data``.

        Raises
        ------
        ProofError
            The signature is not one good, detached signature over these bytes, by a key that gpg has and that is
            neither expired nor revoked.
        """
        if len(signature) > MAX_SIGNATURE_BYTES:
            raise ProofError(
                f"the GPG signature has {len(signature):,} bytes; more than {MAX_SIGNATURE_BYTES:,} is none"
            )
        with tempfile.TemporaryDirectory(prefix="amaru-gpg-") as folder:
            file = Path(folder) / "signature.asc"
            file.write_bytes(signature)
            done = self._run("--status-fd", "1", "--verify", "--", str(file), _path_of(data), stdin=_stdin_of(data))
        return _signer(list(_statuses(done.stdout)), done)

    def _run(
        self, *arguments: str, stdin: bytes | None = None, limit_s: float | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        home = ["--homedir", str(self._home)] if self._home is not None else []
        command = [self._program, *self._options, "--batch", "--no-auto-key-retrieve", *home, *arguments]
        limit_s = self._limit_s if limit_s is None else limit_s
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        try:
            return subprocess.run(  # noqa: S603 -- no shell; what is foreign stands after `--`
                command,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                timeout=limit_s,
                env=environment,
                check=False,
            )
        except FileNotFoundError:
            message = f"there is no program {self._program!r}; install GnuPG (gpg 2.2 or newer)"
            raise AnchorError(message, Trouble.VALIDATION) from None
        except subprocess.TimeoutExpired:
            message = f"gpg did not end within {limit_s:g} s; does its agent wait for a passphrase that nobody enters?"
            raise AnchorError(message, Trouble.AUTHENTICATION) from None
        except (OSError, ValueError) as error:
            raise AnchorError(f"{self._program} cannot be run: {error}", Trouble.VALIDATION) from None


@contextmanager
def with_public_keys(keys: Sequence[bytes], *, program: str = "gpg") -> Iterator[Gpg]:
    """A gpg that knows these public keys and nothing else, for as long as the context lasts. It starts no agent.

    Raises
    ------
    AnchorError
        gpg is missing.
    ProofError
        One of the keys is none.
    """
    with tempfile.TemporaryDirectory(prefix="amaru-gpg-") as folder:
        # Whose key it is, is for the caller to judge by the fingerprint: there is no web of trust in an empty home.
        options = ("--no-options", "--no-autostart", "--disable-dirmngr", "--trust-model", "always")
        gpg = Gpg(Path(folder), program=program, options=options)
        for key in keys:
            if len(key) > MAX_PUBLIC_KEY_BYTES:
                raise ProofError(f"a GPG key of {len(key):,} bytes; more than {MAX_PUBLIC_KEY_BYTES:,} is none")
            done = gpg._run("--status-fd", "1", "--import-options", "import-minimal", "--import", stdin=key)
            if not any(keyword == "IMPORT_OK" for keyword, _ in _statuses(done.stdout)):
                raise ProofError(f"the GPG key cannot be read: {_last_words(done.stderr)}")
        yield gpg


def _signer(statuses: list[tuple[str, list[str]]], done: subprocess.CompletedProcess[bytes]) -> Signer:
    by_keyword = dict(statuses)
    seen = [keyword for keyword, _ in statuses]
    if "BADSIG" in by_keyword:
        whose = " ".join(by_keyword["BADSIG"][1:])
        raise ProofError(
            f"the GPG signature of {in_one_line(whose)} is not over these bytes: one of the two was changed"
        )
    if "REVKEYSIG" in by_keyword:
        raise ProofError(f"the GPG signature is by a revoked key, {_words(by_keyword['REVKEYSIG'])}")
    if "EXPKEYSIG" in by_keyword:
        raise ProofError(
            f"the GPG signature is by a key that has expired, {_words(by_keyword['EXPKEYSIG'])}; "
            "a fresh public key, with its expiry extended, would show whether it was valid then"
        )
    if "EXPSIG" in by_keyword:
        raise ProofError(f"the GPG signature by {_words(by_keyword['EXPSIG'])} has expired")
    if "NO_PUBKEY" in by_keyword:
        key = _words(by_keyword["NO_PUBKEY"])
        raise ProofError(
            f"the GPG signature is by the key {key}, which gpg does not have; get it and `gpg --import` it"
        )
    if seen.count("VALIDSIG") > 1 or seen.count("NEWSIG") > 1:
        raise ProofError("the file holds several GPG signatures; keep each in a file of its own")
    valid = by_keyword.get("VALIDSIG", [])
    if done.returncode != 0 or "GOODSIG" not in by_keyword or len(valid) < 10:
        raise ProofError(f"that is no detached GPG signature over these bytes: {_last_words(done.stderr)}")
    # <fingerprint> <date> <timestamp> <expires> <version> <reserved> <key algorithm> <hash> <class> <primary key>
    if valid[7] not in _STRONG_HASHES:
        raise ProofError(
            "the GPG signature uses a hash that can be forged (MD5, SHA-1 or older); sign anew with SHA-256"
        )
    if valid[8] != _BINARY_SIGNATURE:
        raise ProofError(
            "the GPG signature is over text, so it would not see every change; sign with --detach-sign alone"
        )
    validity = next((keyword[6:].lower() for keyword in seen if keyword.startswith("TRUST_")), None)
    user_id = in_one_line(" ".join(by_keyword["GOODSIG"][1:]))
    return Signer(valid[9], user_id, _instant(valid[2]), validity)


def _statuses(output: bytes) -> Iterator[tuple[str, list[str]]]:
    for line in output.decode("utf-8", "replace").split("\n"):
        prefix, _, rest = line.partition(" ")
        if prefix == "[GNUPG:]" and rest:
            keyword, *words = rest.split(" ")
            yield keyword, words


def _listed_keys(listing: bytes) -> Iterator[SecretKey]:
    """Primary keys of a colon listing: a ``sec`` line, then its ``fpr``, then its ``uid`` lines."""
    fingerprint = ""
    wanted = False
    for line in listing.decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        if fields[0] == "sec":
            # Field 12: what the key, with its subkeys, can do now; S: sign, D: disabled.
            usable = (
                len(fields) > 11 and "S" in fields[11] and "D" not in fields[11] and fields[1] not in ("e", "r", "i")
            )
            wanted, fingerprint = usable, ""
        elif fields[0] == "fpr" and wanted and not fingerprint:
            fingerprint = fields[9]
        elif fields[0] == "uid" and wanted and fingerprint:
            yield SecretKey(fingerprint, in_one_line(fields[9]))
            wanted = False


def _path_of(data: Data) -> str:
    if not isinstance(data, Path):
        return "-"
    if not data.is_file():
        raise AnchorError(f"{data}: no such file", Trouble.VALIDATION)
    return str(data.absolute())


def _stdin_of(data: Data) -> bytes | None:
    return None if isinstance(data, Path) else data


def _instant(timestamp: str) -> datetime:
    try:
        return datetime.fromtimestamp(int(timestamp), UTC)
    except (ValueError, OverflowError, OSError):
        raise ProofError(f"the GPG signature's time {in_one_line(timestamp)!r} cannot be read") from None


def _words(words: list[str]) -> str:
    return in_one_line(" ".join(words))


def _last_words(stderr: bytes) -> str:
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return in_one_line(lines[-1]) if lines else "it gave no reason"
