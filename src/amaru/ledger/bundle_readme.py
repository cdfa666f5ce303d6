"""The README of a proof bundle: how to check each piece with tools that are not ours.

Its commands are run by a test. They are for Python 3, OpenSSL 3 and GnuPG 2.
"""

from __future__ import annotations

from collections.abc import Mapping

_ABOUT = """\
Proof that a receipt stands in a log
====================================

This file tells how to check the proof without amaru. The commands need Python 3, OpenSSL 3 and GnuPG 2. Unpack the ZIP
into an empty folder and run them there. (With amaru: `remembrancer verify-proof BUNDLE`.)

  entry.json        the receipt, byte for byte as it was logged
  entry.tlog-proof  its inclusion in the log (https://c2sp.org/tlog-proof, RFC 6962)
  checkpoint        the log's size and root, signed (https://c2sp.org/tlog-checkpoint)
  log-keys.txt      the log's public keys (https://c2sp.org/signed-note)
  check.py          does step 1, and readies the others for openssl
"""

_INCLUSION = """\
1. The receipt stands in the log
--------------------------------

check.py is short, and needs nothing but Python: read it first, or write your own. It hashes the receipt up to the root
of the tree, and takes apart for openssl what is signed. The second command prints the receipt's id, its leaf hash.

    python3 check.py
    (printf '\\0'; cat entry.json) | openssl dgst -sha256

2. The checkpoint is signed by the log
--------------------------------------

Each checkpoint.N.pem that check.py wrote is a key of log-keys.txt. Whether it is the key of the log that you mean, you
must know from elsewhere: compare it with what the log's operator publishes.

    for key in checkpoint.*.pem; do
    openssl pkeyutl -verify -pubin -inkey $key -rawin -in checkpoint.signed -sigfile ${key%.pem}.sig; done
"""

_SIGNED = """\
{number}. {subject} is signed with GPG
---------------------------------------

Whose key it is, you must know from elsewhere: compare the fingerprint.{stands_for}

    mkdir -p -m 700 gpg-home
    gpg --homedir gpg-home --batch --no-autostart --import {key}
    gpg --homedir gpg-home --batch --no-autostart --verify {signature} {file}
"""

_STAMPED = """\
{number}. {subject} existed at a certain time
---------------------------------------

certificates.pem came with this bundle: compare it with what the time-stamping authority publishes, or name a file of
your own. Where a certificate has expired since, add -attime with the stamp's time in seconds since 1970.

    openssl ts -verify {data} -in {stamp} -CAfile certificates.pem
    openssl ts -reply -in {stamp} -text
"""

_ATTESTED = """\
{number}. The deployment is attested
---------------------------------------

attestation.json is the DSSE envelope that the receipt holds. check.py took the in-toto Statement out of it: that was
signed with the keys attestation.N.pem, which are the log's. Compare its subject's digest with that of your artifact.

    for key in attestation.*.pem; do
    openssl pkeyutl -verify -pubin -inkey $key -rawin -in attestation.signed -sigfile ${{key%.pem}}.sig; done
    cat statement.json
"""

_LIMITS = """\
What this proves, and what not
------------------------------

That the receipt, in these bytes, stood in the log when the checkpoint was signed, and that whoever holds this or a
later checkpoint would notice if it were changed or dropped. Not that what it says is true, and not that everything that
happened was logged.
"""

_SUBJECTS = {"checkpoint": "The checkpoint", "entry": "The receipt", "artifact": "The artifact"}
_FILES = {"checkpoint": "checkpoint", "entry": "entry.json", "artifact": "ARTIFACT"}
_STANDS_FOR = " ARTIFACT stands for the file, which is not in here."


def readme(members: Mapping[str, bytes], digest: bytes | None) -> str:
    """The text for a bundle of these members; ``digest`` is the artifact's SHA-256, where the receipt names one."""
    sections = [_ABOUT, _INCLUSION]
    number = 3
    for name in sorted(members, key=lambda name: (name.count("/"), "artifact" in name, name)):
        folder, _, file = name.partition("/")
        on = file.split(".")[0]
        if name.endswith(".asc"):
            where = {"signature": name, "key": f"{name[:-4]}.key", "file": _FILES[on]}
            where["stands_for"] = _STANDS_FOR if on == "artifact" else ""
            sections.append(_SIGNED.format(number=number, subject=_SUBJECTS[on], **where))
        elif folder == "timestamps":
            data = f"-digest {digest.hex()}" if on == "artifact" and digest else f"-data {_FILES[on]}"
            sections.append(_STAMPED.format(number=number, subject=_SUBJECTS[on], data=data, stamp=name))
        elif name == "attestation.json":
            sections.append(_ATTESTED.format(number=number))
        else:
            continue
        number += 1
    return "\n".join((*sections, _LIMITS))
