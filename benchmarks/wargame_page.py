"""What the benchmarks of the war-game share: the machine's name, and tables that they write into a page of the docs."""

from __future__ import annotations

import os
from pathlib import Path

from amaru.readiness.machine import this_machine


def machine_words() -> str:
    """The machine in words."""
    machine = this_machine()
    return f"{machine.processor}, {machine.cores} cores, {machine.system}, {machine.python}"


def write_between(page: Path, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- name: begin -->`` and ``<!-- name: end -->`` of ``page``; the rest stays.

    Raises ValueError where the page has no such markers.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.read_text("utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no lines {begin} and {end}")
    beside = page.with_name(f".{page.name}.new")
    beside.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
    os.replace(beside, page)  # noqa: PTH105 - as everywhere: the name says that it is atomic
