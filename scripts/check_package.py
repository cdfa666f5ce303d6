"""Checks what users install: builds the wheel, installs it in a clean environment, and serves with it.

Takes half a minute, most of it the installation of the locked runtime dependencies. Needs the registry that pip is set
up for, and a POSIX system.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
READY_WITHIN_S = 60.0
"""The first start compiles the kernels, on a machine that may be busy with other checks."""
STOP_WITHIN_S = 20.0

CONFIG = """\
server: {port: 0, auth: none}
providers:
  nowhere: {base_url: "http://127.0.0.1:9/v1"}
offers:
  - {provider: nowhere, resource: a-model, price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
"""


def main() -> int:
    try:
        with tempfile.TemporaryDirectory(prefix="amaru-package-") as name:
            _check(Path(name))
    except subprocess.CalledProcessError as error:
        print(
            f"`{' '.join(map(str, error.cmd))}` exited with {error.returncode}:\n{error.stdout}\n{error.stderr or ''}"
        )
        return 1
    except AssertionError as error:
        print(error)
        return 1
    return 0


def _check(scratch: Path) -> None:
    wheel = _build()
    print(f"built {wheel.name}, {wheel.stat().st_size / 1024:.0f} KiB")
    amaru = _install(wheel, scratch / "venv")
    print("installed it in a clean environment")
    # Away from the repository, so that nothing but the wheel can be imported.
    home = scratch / "home"
    home.mkdir()
    version = _output(home, amaru, "--version")
    expected = wheel.name.split("-")[1]
    assert version.strip() == f"amaru {expected}", f"amaru --version says {version!r}, the wheel is {expected}"
    assert "serve" in _output(home, amaru, "--help"), "amaru --help does not teach `serve`"
    (home / "amaru.yaml").write_text(CONFIG)
    _output(home, amaru, "config", "check")
    _serve(home, amaru)


def _build() -> Path:
    """The wheel, built from the source distribution, so that this is complete too; in dist/, to look at."""
    dist = ROOT / "dist"
    for old in dist.glob("amaru-*"):
        old.unlink()
    _output(ROOT, sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist))
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("amaru/py.typed", "licenses/LICENSE", "licenses/NOTICE"):
        assert any(name.endswith(needed) for name in names), f"the wheel lacks {needed}"
    strange = [name for name in names if not name.startswith(("amaru/", "amaru-"))]
    assert not strange, f"the wheel holds what is not amaru's: {strange}"
    return wheel


def _install(wheel: Path, environment: Path) -> Path:
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    requirements = str(ROOT / "requirements" / "runtime.txt")
    _output(ROOT, *pip, "--require-hashes", "--only-binary", ":all:", "-r", requirements)
    _output(ROOT, *pip, "--no-deps", str(wheel))
    _output(ROOT, python, "-m", "pip", "check")
    return environment / "bin" / "amaru"


def _serve(home: Path, amaru: Path) -> None:
    """Start it, wait until it is ready, ask it something, stop it as an init system does."""
    log = home / "serve.log"
    started = time.monotonic()
    with log.open("w") as sink:
        server = subprocess.Popen(
            [str(amaru), "serve"], cwd=home, env=_environment(home), stdout=sink, stderr=subprocess.STDOUT
        )
    with _killed_at_the_end(server):
        address = _wait_until_ready(server, log, started + READY_WITHIN_S)
        print(f"ready after {time.monotonic() - started:.1f} s")
        with urllib.request.urlopen(f"{address}/openapi.json", timeout=10) as answer:
            assert answer.status == 200, f"/openapi.json answered {answer.status}"
        server.send_signal(signal.SIGTERM)
        try:
            code = server.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"amaru serve did not stop on SIGTERM:\n{log.read_text()}") from None
        assert code == 0, f"amaru serve exited with {code} on SIGTERM:\n{log.read_text()}"
    print("stopped cleanly")


@contextlib.contextmanager
def _killed_at_the_end(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_until_ready(server: subprocess.Popen[bytes], log: Path, deadline: float) -> str:
    """The address that it announces, once /health/ready answers 200."""
    while time.monotonic() < deadline:
        text = log.read_text()
        assert server.poll() is None, f"amaru serve ended with {server.returncode}:\n{text}"
        announced = re.search(r"http://127\.0\.0\.1:\d+", text)
        if announced is not None and _answers(f"{announced[0]}/health/ready"):
            return announced[0]
        time.sleep(0.1)
    raise AssertionError(f"amaru serve was not ready within {READY_WITHIN_S:g} s:\n{log.read_text()}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError:
        return False


def _environment(home: Path) -> dict[str, str]:
    """This one, less what could reach back into the repository."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AMARU_", "COV"))}
    return kept | {"HOME": str(home)}


def _output(where: Path, *command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=where,
        env=_environment(Path.home()),
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
