"""A log with a deployment in it, signed and time-stamped by all that a bundle can hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from authority import Authority
from gpg_home import GpgHome, gpg_home

from amaru.ledger.attestation import Deployment, Resource, deployment_statement, sign_envelope
from amaru.ledger.bundle import Contents, Signature, Stamp, export_proof, prove
from amaru.ledger.canonical import canonical
from amaru.ledger.gpg import Gpg
from amaru.ledger.log import Log
from amaru.ledger.notes import NoteSigner
from amaru.ledger.receipts import Deploy, leaf_of, rfc3339
from amaru.ledger.timestamps import digest_of

ORIGIN = "gateway.example.org/log"
ARTIFACT = b"\x7fELF an image\x00" * 1000
AT = rfc3339(1_790_000_000.0)
INDEX = 137


@dataclass
class World:
    """Where all of it lies. ``log`` has 300 entries; the deployment is number ``INDEX``."""

    log: Log
    signer: NoteSigner
    gpg: Gpg
    home: GpgHome
    alice: str
    bob: str
    tsa: Authority
    artifact: Path
    entry: bytes

    def contents(self) -> Contents:
        """The pieces of a bundle about the deployment."""
        return Contents(
            entry=self.entry,
            proof=prove(self.log, INDEX),
            verifiers=(self.signer.verifier,),
            signatures=(self.signed("checkpoint"), self.signed("artifact")),
            timestamps=(
                Stamp("checkpoint", self.tsa.stamp(self.log.checkpoint())),
                Stamp("entry", self.tsa.stamp(self.entry)),
                Stamp("artifact", self.tsa.stamp(ARTIFACT)),
            ),
            certificates=self.tsa.roots.read_bytes(),
        )

    def signed(self, on: str, key: str | None = None) -> Signature:
        """A signature over the checkpoint or the artifact."""
        data = self.log.checkpoint() if on == "checkpoint" else ARTIFACT
        made = self.gpg.sign(data, key or self.alice)
        return Signature(on, made.signature, self.gpg.public_key(made.fingerprint))  # type: ignore[arg-type]  # one of three

    def bundle(self) -> bytes:
        """The bundle of these pieces."""
        return export_proof(self.contents())

    @property
    def trust(self) -> str:
        """The text of a file that trusts the log, Alice and the authority."""
        return f"# what we know\n{self.signer.verifier.vkey}\ngpg {self.alice}\n{self.tsa.roots.read_text()}"


def deployment(signer: NoteSigner, artifact: bytes = ARTIFACT) -> bytes:
    """The leaf of a deployment, attested."""
    digest = digest_of(artifact, "sha256").hex()
    about = Deployment(component="gateway", version="1.4.2", environment="production", deployed_at=AT)
    statement = deployment_statement([Resource(name="registry.example/gateway", digest={"sha256": digest})], about)
    receipt = Deploy(
        at=AT,
        component="gateway",
        version="1.4.2",
        environment="production",
        digest=f"sha256:{digest}",
        envelope=sign_envelope(statement, [signer]),
        note="Rolled out to Zürich, slowly",
    )
    return leaf_of(receipt)


def other_leaf(number: int) -> bytes:
    """A leaf of no interest."""
    return canonical({"v": 1, "type": "discovery", "at": AT, "component": "mesh", "note": f"number {number}"})


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Build it in ``folder``."""
    signer = NoteSigner(ORIGIN, bytes(range(32)))
    entry = deployment(signer)
    artifact = folder / "image.bin"
    artifact.write_bytes(ARTIFACT)
    with gpg_home() as home, Log.open(str(folder / "ledger"), [signer]) as log:
        log.append([entry if number == INDEX else other_leaf(number) for number in range(300)])
        alice, bob = home.make_key("Alice <alice@example.org>"), home.make_key("Bob <bob@example.org>")
        yield World(log, signer, Gpg(home.folder), home, alice, bob, Authority(folder / "tsa"), artifact, entry)
