"""Several processes put into one queue, which one of them empties."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from amaru.errors import LedgerError
from amaru.ledger.guest import Guest
from amaru.ledger.journal import Mark
from amaru.ledger.ring import Ring

MANY = 1 << 30
PUTS = 2_000
_PUT = f"""
import sys, time
from pathlib import Path
from amaru.ledger.ring import Ring
ring = Ring.join(Path(sys.argv[1]), clock=time.time)
for number in range({PUTS}):
    while not ring.put(b"%s %d" % (sys.argv[2].encode(), number)):
        time.sleep(0.001)
    if number == 0:
        print("begun", flush=True)
"""


def clock() -> float:
    return 1_800_000_000.0


def opened(path: Path, capacity_bytes: int = 1_000_000) -> Ring:
    ring = Ring.open(path, capacity_bytes=capacity_bytes, clock=clock, shared=True)
    ring.reconcile(Mark())
    return ring


def taken(ring: Ring) -> list[bytes]:
    leaves, position = ring.peek(MANY, MANY)
    ring.advance(position)
    return leaves


def guest(path: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", _PUT, str(path), name], stdout=subprocess.PIPE, text=True)


def test_what_several_processes_put_is_taken_once_and_in_each_ones_order(tmp_path: Path) -> None:
    ring = opened(tmp_path / "ring")
    guests = [guest(tmp_path / "ring", name) for name in ("a", "b")]
    found: list[bytes] = []
    own = 0
    while any(process.poll() is None for process in guests):
        own += bool(ring.put(b"own %d" % own))
        found += taken(ring)
    found += taken(ring)
    for name, count in (("a", PUTS), ("b", PUTS), ("own", own)):
        mine = [leaf for leaf in found if leaf.startswith(name.encode() + b" ")]
        assert mine == [b"%s %d" % (name.encode(), number) for number in range(count)]
    ring.close()


def test_a_killed_guest_leaves_whole_leaves_and_no_lock(tmp_path: Path) -> None:
    ring = opened(tmp_path / "ring", 4_000)  # full before long: the guest is killed between two tries
    process = guest(tmp_path / "ring", "a")
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.kill()
    process.wait()
    found = taken(ring)
    assert found == [b"a %d" % number for number in range(len(found))]
    assert found
    assert ring.put(b"after")
    assert taken(ring) == [b"after"]
    ring.close()


def test_what_was_put_while_nobody_emptied_waits_for_who_opens_next(tmp_path: Path) -> None:
    first = opened(tmp_path / "ring")
    process = guest(tmp_path / "ring", "a")
    first.close()  # as if its process had died
    process.wait()
    second = opened(tmp_path / "ring")
    assert taken(second) == [b"a %d" % number for number in range(PUTS)]
    second.close()


def test_a_queue_that_another_has_joined_keeps_its_size(tmp_path: Path) -> None:
    opened(tmp_path / "ring", 1_000).close()
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom amaru.ledger.ring import Ring\n"
        "ring = Ring.join(Path(sys.argv[1]), clock=time.time)\nprint('joined', flush=True)\nsys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "ring")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    before = (tmp_path / "ring").stat().st_size
    opened(tmp_path / "ring", 9_000).close()
    assert (tmp_path / "ring").stat().st_size == before
    process.communicate()
    opened(tmp_path / "ring", 9_000).close()
    assert (tmp_path / "ring").stat().st_size > before


def test_a_guest_counts_what_it_offers_before_there_is_a_queue(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be joined"):
        Ring.join(tmp_path / "ring", clock=clock)
    one = Guest(lambda: Ring.join(tmp_path / "ring", clock=clock), clock=clock)
    assert one.offer(b"too early") == b""
    assert one.status().dropped == 1
    ring = opened(tmp_path / "ring")
    one.start()
    assert one.wait_open(10.0)
    assert one.offer(b"leaf")
    assert taken(ring) == [b"leaf"]
    gap = ring.gap()
    assert gap is not None
    assert gap.dropped == 1
    assert one.close(10.0)
    ring.close()
