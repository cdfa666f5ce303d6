"""Kills those who begin a ledger, and looks at what the next one finds; a program, so that it may fork.

    python kill_founding.py FOLDER STEP     kills before, then within or after, every STEP-th call to the system

The next one must find a whole key and salt, or make them; and whatever was acknowledged once stays. Prints how many it
killed.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from kill_writer import forked, kill_at_call, last_acknowledged
from log_samples import make_leaf

from amaru.ledger.audit import audit
from amaru.ledger.keys import load_signers
from amaru.ledger.place import Place, found, load_salt, open_log, open_view, retire, rotate, trust_of
from amaru.ledger.tile_store import FolderStore

FOUNDED, SALTED, RECORDED, ROTATED, RETIRED = range(1, 6)


def place_in(folder: Path) -> Place:
    return Place.of(str(folder / "data" / "ledger"), folder / "data")


def begin(folder: Path, acknowledge: Callable[[int], None]) -> None:
    """All that writes into the folder of keys."""
    place = place_in(folder)
    found(place)
    acknowledge(FOUNDED)
    load_salt(place)
    acknowledge(SALTED)
    with open_log(place) as log:
        log.append([make_leaf(0)])
    acknowledge(RECORDED)
    open_view(place, trust_of(place)[0].verifiers)
    first = load_signers(place.signing_key)[0]
    rotate(place)
    acknowledge(ROTATED)
    retire(place, first.verifier.key_id)
    acknowledge(RETIRED)


def go_on(folder: Path, reached: int) -> None:
    """What the next process finds must be whole, and as it was acknowledged."""
    place = place_in(folder)
    key = place.signing_key.read_bytes() if place.signing_key.exists() else None
    salt = place.salt.read_bytes() if place.salt.exists() else None
    assert key is not None or reached < FOUNDED, "the key is gone"
    assert salt is not None or reached < SALTED, "the salt is gone"
    assert (found(place) is None) == (key is not None)
    assert key in (None, place.signing_key.read_bytes()), "the key was written over"
    assert salt in (None, load_salt(place)), "the salt was written over"
    signers = [signer.verifier for signer in load_signers(place.signing_key)]
    assert len(signers) in {ROTATED: (1, 2), RETIRED: (1,)}.get(reached, (1, 2))
    with open_log(place) as log:
        assert log.size >= (reached >= RECORDED), "what was recorded is gone"
        log.append([make_leaf(log.size)])
    known = trust_of(place)[0].verifiers
    assert set(signers) <= set(known)
    assert open_view(place, known).size == log.size
    report = audit(FolderStore(Path(place.url)), known)
    assert report.ok, report.findings
    for secret in (place.signing_key, place.salt, *place.keys.glob(".s[ai]*.draft")):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def kill_at_every_call(folder: Path, step: int) -> int:
    kills = 0
    for half in (False, True):
        number = 1
        while True:
            shutil.rmtree(folder / "data", ignore_errors=True)

            def work(acknowledge: Callable[[int], None], number: int = number, half: bool = half) -> None:
                kill_at_call(number, half)
                begin(folder, acknowledge)

            child, pipe = forked(work)
            _, status = os.waitpid(child, 0)
            go_on(folder, last_acknowledged(pipe, 0))
            if os.WIFEXITED(status):
                assert os.WEXITSTATUS(status) == 0
                break
            kills += 1
            number += step
    return kills


if __name__ == "__main__":
    print(kill_at_every_call(Path(sys.argv[1]), int(sys.argv[2])))
