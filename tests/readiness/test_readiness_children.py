"""Child processes, and that they never outlive who started them."""

import os
import select
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

# A parent that starts a child, tells when it is ready, and then waits to be killed.
PARENT = """
import asyncio, sys
from pathlib import Path
from amaru.readiness.children import Child

async def main():
    arguments, ready = sys.argv[2:], sys.argv[1]
    child = await Child.start("child", arguments, Path.cwd())
    await child.line(lambda line: ready in line, 60)
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
CONFIG = """
server: {port: 0, auth: none}
providers:
  nowhere: {base_url: "http://127.0.0.1:9/v1"}
offers:
  - {provider: nowhere, resource: a-model, price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux' way to wait for another's child")
@pytest.mark.parametrize(
    ("ready", "arguments"),
    [
        ("anvil", ["simulate", "--providers", "1", "--port-base", "0", "--json"]),
        ("amaru serves at", ["serve", "--config", "c.yaml"]),
    ],
)
def test_a_child_ends_with_a_parent_that_is_killed(ready: str, arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    command = [sys.executable, "-c", PARENT, ready, *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        (child,) = psutil.Process(parent.pid).children()
        watched = os.pidfd_open(child.pid)
        try:
            parent.kill()
            ended, _, _ = select.select([watched], [], [], 9)  # before the lifeline's own SIGKILL
        finally:
            os.close(watched)
        if not ended:
            child.kill()
        assert ended
