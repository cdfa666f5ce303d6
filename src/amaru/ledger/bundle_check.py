"""Checks that the receipt of a proof bundle stands in the log. Needs Python 3 and nothing else: read it, then run it.

It lies in every bundle as ``check.py``. It hashes ``entry.json`` up to the root of the tree along ``entry.tlog-proof``
(RFC 9162, section 2.1.3.2), compares that with the root in ``checkpoint``, and writes what openssl needs to check the
checkpoint's signatures: ``signed.txt``, and ``key.N.pem`` and ``key.N.sig`` for each of ``log-keys.txt`` that signed.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from pathlib import Path

DER_OF_ED25519 = bytes.fromhex("302a300506032b6570032100")


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


def main(folder: Path) -> None:
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

    (folder / "signed.txt").write_bytes(text + b"\n")
    for number, line in enumerate((folder / "log-keys.txt").read_text("utf-8").split("\n")[:-1], 1):
        name, id, key = line.split("+", 2)
        der = DER_OF_ED25519 + base64.b64decode(key)[1:]
        pem = f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(der).decode()}\n-----END PUBLIC KEY-----\n"
        for signature in signatures.decode().split("\n")[:-1]:
            _, signer, encoded = signature.split(" ")
            value = base64.b64decode(encoded)
            if (signer, value[:4].hex()) == (name, id):
                (folder / f"key.{number}.pem").write_text(pem)
                (folder / f"key.{number}.sig").write_bytes(value[4:])
                sys.stdout.write(f"to check with openssl: key.{number}.pem, which is {name} {id}\n")


if __name__ == "__main__":
    main(Path())
