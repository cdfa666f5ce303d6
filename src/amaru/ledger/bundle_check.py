"""Checks that the receipt of a proof bundle stands in the log. Needs Python 3 and nothing else: read it, then run it.

It lies in every bundle as ``check.py``. It hashes ``entry.json`` up to the root of the tree along ``entry.tlog-proof``
(RFC 9162, section 2.1.3.2), compares that with the root in ``checkpoint``, and writes what openssl needs to check who
signed that: ``checkpoint.signed``, and ``checkpoint.N.pem`` and ``checkpoint.N.sig`` for each of ``log-keys.txt`` that
did. Of an attestation likewise; what was signed is there DSSE's pre-authentication encoding of the in-toto Statement
(https://github.com/secure-systems-lab/dsse).
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path

DER_OF_ED25519 = bytes.fromhex("302a300506032b6570032100")
IN_TOTO, STATEMENT = "application/vnd.in-toto+json", "https://in-toto.io/Statement/v1"


def sha256(prefix: bytes, *parts: bytes) -> bytes:
    return hashlib.sha256(prefix + b"".join(parts)).digest()


def root_of(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that the path leads to."""
    node, at, last = sha256(b"\x00", leaf), index, size - 1
    if not 0 <= at <= last:
        sys.exit("FAILS: there is no such entry in that tree")
    for sibling in path:
        if last == 0:
            sys.exit("FAILS: the proof is too long for that tree")
        if at % 2 or at == last:
            node = sha256(b"\x01", sibling, node)
            while at and at % 2 == 0:
                at, last = at // 2, last // 2
        else:
            node = sha256(b"\x01", node, sibling)
        at, last = at // 2, last // 2
    if last != 0:
        sys.exit("FAILS: the proof is too short for that tree")
    return node


def ready(folder: Path, what: str, signatures: list[tuple[str, bytes]]) -> None:
    """Write what openssl needs: the key and the signature of each of ``log-keys.txt`` that is said to have signed."""
    known = 0
    for number, line in enumerate((folder / "log-keys.txt").read_text("utf-8").split("\n")[:-1], 1):
        name, id, key = line.split("+", 2)
        der = base64.b64encode(DER_OF_ED25519 + base64.b64decode(key)[1:]).decode()
        for value in (value for signer, value in signatures if signer == f"{name}+{id}"):
            (folder / f"{what}.{number}.pem").write_text(
                f"-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n"
            )
            (folder / f"{what}.{number}.sig").write_bytes(value)
            sys.stdout.write(f"to check with openssl: {what}.{number}.pem, which is {name} {id}\n")
            known += 1
    if not known:
        sys.exit(f"FAILS: by its own words, the {what} is signed by no key of log-keys.txt")


def check_inclusion(folder: Path) -> None:
    head, _, checkpoint = (folder / "entry.tlog-proof").read_bytes().partition(b"\n\n")
    if checkpoint != (folder / "checkpoint").read_bytes():
        sys.exit("FAILS: the checkpoint is not the one of the proof")
    lines = [line for line in head.decode().split("\n")[1:] if not line.startswith("extra ")]
    index, path = int(lines[0].split(" ")[1]), [base64.b64decode(line) for line in lines[1:]]
    text, _, signatures = checkpoint.rpartition(b"\n\n")
    origin, size, root = text.decode().split("\n")[:3]
    if root_of((folder / "entry.json").read_bytes(), index, int(size), path) != base64.b64decode(root):
        sys.exit("FAILS: the receipt does not stand in that tree")
    sys.stdout.write(f"entry.json is number {index} of the {size} entries of {origin}\n")

    (folder / "checkpoint.signed").write_bytes(text + b"\n")
    signed = [line.split(" ")[1:] for line in signatures.decode().split("\n")[:-1]]
    values = [(name, base64.b64decode(value)) for name, value in signed]
    ready(folder, "checkpoint", [(f"{name}+{value[:4].hex()}", value[4:]) for name, value in values])


def check_attestation(folder: Path) -> None:
    envelope, receipt = (json.loads((folder / name).read_bytes()) for name in ("attestation.json", "entry.json"))
    if envelope != receipt["envelope"]:
        sys.exit("FAILS: attestation.json is not the envelope that the receipt holds")
    kind, payload = envelope["payloadType"], base64.b64decode(envelope["payload"])
    statement = json.loads(payload)
    digests = ["sha256:" + one["digest"]["sha256"] for one in statement["subject"]]
    if kind != IN_TOTO or statement["_type"] != STATEMENT:
        sys.exit("FAILS: attestation.json holds no in-toto Statement")
    if receipt.get("digest", digests[0]) not in digests:
        sys.exit("FAILS: the attestation is about another artifact than the receipt")
    sys.stdout.write(f"attestation.json is a {statement['predicateType']} of {', '.join(digests)}\n")

    (folder / "statement.json").write_bytes(payload)
    (folder / "attestation.signed").write_bytes(
        b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
    )
    signatures = [(one["keyid"], base64.b64decode(one["sig"])) for one in envelope["signatures"]]
    ready(folder, "attestation", signatures)


if __name__ == "__main__":
    check_inclusion(Path())
    if Path("attestation.json").exists():
        check_attestation(Path())
