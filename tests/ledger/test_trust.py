"""What a verifier trusts, from a text file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from authority import needs_openssl
from bundle_world import World
from gpg_home import needs_gpg

from amaru.errors import LedgerError
from amaru.ledger.trust import read_trust


@needs_gpg
@needs_openssl
def test_a_file_of_what_to_trust(made: World, tmp_path: Path) -> None:
    grouped = " ".join(re.findall("....", made.alice))
    file = tmp_path / "trust.txt"
    file.write_text(
        f"\n# the log\n{made.signer.verifier.vkey}\nGPG {grouped.lower()}\n{made.tsa.roots.read_text()}" * 2
    )
    trust = read_trust(file)
    assert trust.verifiers == (made.signer.verifier,)
    assert trust.gpg == {made.alice}
    assert len(trust.roots) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "says nothing to trust"),
        ("# nothing\n", "says nothing to trust"),
        ("\ngpg 8711", "line 2: a GPG key is named by its whole fingerprint"),
        ("gpg alice@example.org", "line 1: a GPG key is named by"),
        ("example.org+00+x", "line 1: "),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "line 3: the certificate that ends here"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n", "a certificate that does not end"),
    ],
)
def test_a_mistake_in_it_is_named(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "trust.txt"
    file.write_text(text)
    with pytest.raises(LedgerError, match=rf"trust.txt.*{words}"):
        read_trust(file)
    with pytest.raises(LedgerError, match=r"none.txt: cannot be read"):
        read_trust(tmp_path / "none.txt")
