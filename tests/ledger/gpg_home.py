"""A throw-away home of gpg with keys that need no passphrase; its agent is ended with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

GPG = shutil.which("gpg")
needs_gpg = pytest.mark.skipif(GPG is None, reason="the gpg program is not installed")


class GpgHome:
    """The home's folder, and gpg run in it as a person would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run gpg; raises ``CalledProcessError`` where it fails."""
        command = [GPG or "gpg", "--homedir", str(self.folder), "--batch", "--quiet", *arguments]
        return subprocess.run(command, check=True, capture_output=True, input=stdin, timeout=300)

    def make_key(self, user_id: str, *, expires: str = "never", at: str | None = None) -> str:
        """A new key without a passphrase; its fingerprint. ``at``: the time that gpg is told it is."""
        made = self.run(
            *(["--faked-system-time", at] if at else []),
            *("--status-fd", "1", "--pinentry-mode", "loopback", "--passphrase", ""),
            *("--quick-generate-key", user_id, "ed25519", "sign", expires),
        )
        return made.stdout.split()[-1].decode()

    def revoke(self, fingerprint: str) -> None:
        """Revoke a key by the certificate that gpg wrote when it made it."""
        certificate = (self.folder / "openpgp-revocs.d" / f"{fingerprint}.rev").read_text()
        self.run("--import", stdin=certificate.replace("\n:-----BEGIN", "\n-----BEGIN").encode())

    def end_agent(self) -> None:
        """End the home's gpg-agent, where there is one."""
        subprocess.run(["gpgconf", "--homedir", str(self.folder), "--kill", "all"], check=False, timeout=300)

    def accepts(self, data: bytes, signature: bytes) -> bool:
        """The verdict of ``gpg --verify``."""
        with tempfile.TemporaryDirectory() as folder:
            file, signed = Path(folder) / "data", Path(folder) / "data.asc"
            file.write_bytes(data)
            signed.write_bytes(signature)
            try:
                self.run("--verify", str(signed), str(file))
            except subprocess.CalledProcessError:
                return False
            return True


@contextmanager
def gpg_home() -> Iterator[GpgHome]:
    """A fresh home. Its path is short, as the agent's socket lies in it."""
    folder = Path(tempfile.mkdtemp(prefix="ag-", dir="/tmp" if os.path.isdir("/tmp") else None))
    folder.chmod(0o700)
    home = GpgHome(folder)
    try:
        yield home
    finally:
        home.end_agent()
        shutil.rmtree(folder, ignore_errors=True)
