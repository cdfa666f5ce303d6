"""The C2SP tlog-tiles layout (https://c2sp.org/tlog-tiles): where each hash and each entry lies, and in which form.

A hash tile of level ``L`` and number ``N`` holds up to 256 hashes, the roots of the perfect trees of ``256**L`` leaves
from ``N * 256`` on; an entry bundle holds up to 256 entries, each after its length (uint16, big-endian). The rightmost
of each level is partial, of a width of 1 to 255, and has the path ``….p/<width>``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from amaru.errors import LedgerCorrupt, LedgerError
from amaru.ledger.merkle import HASH_BYTES

TILE_WIDTH = 256
TILE_HEIGHT = 8
MAX_ENTRY_BYTES = 65_535
"""What a uint16 can say."""
MAX_BUNDLE_BYTES = TILE_WIDTH * (2 + MAX_ENTRY_BYTES)
ENTRIES = -1
"""The "level" of entry bundles."""
_PARTIAL = re.compile(r"[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5]")


class Tile(NamedTuple):
    """One file of the layout: a hash tile, or an entry bundle where ``level`` is ``ENTRIES``."""

    level: int
    number: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """Its path under the log's prefix."""
        level = "entries" if self.level == ENTRIES else str(self.level)
        return f"tile/{level}/{number_path(self.number)}{self.suffix}"

    @property
    def suffix(self) -> str:
        """``.p/<width>`` where it is partial."""
        return "" if self.width == TILE_WIDTH else f".p/{self.width}"

    @property
    def most_bytes(self) -> int:
        """What its file can have."""
        return MAX_BUNDLE_BYTES if self.level == ENTRIES else TILE_WIDTH * HASH_BYTES

    @property
    def full(self) -> Tile:
        """The same tile once it is full."""
        return self._replace(width=TILE_WIDTH)


def number_path(number: int) -> str:
    """1234067 as ``x001/x234/067``: no folder has more than a thousand of a kind, and no file is also a folder."""
    path = f"{number % 1000:03d}"
    while number >= 1000:
        number //= 1000
        path = f"x{number % 1000:03d}/{path}"
    return path


def parse_path(path: str) -> Tile:
    """The tile of a path. Raises LedgerError for any text that is not exactly the path of one."""
    bad = LedgerError(f"{path[:100]!r} is not the path of a tile (https://c2sp.org/tlog-tiles)")
    parts = path.split("/")
    if len(parts) < 3 or parts[0] != "tile" or not path.isascii():
        raise bad
    width = TILE_WIDTH
    if parts[-2].endswith(".p"):
        if not parts[-1].isdigit():
            raise bad
        width = int(parts.pop())
        parts[-1] = parts[-1].removesuffix(".p")
    digits = "".join(part.removeprefix("x") for part in parts[2:])
    level = parts[1]
    if not (digits.isdigit() and len(digits) <= 21 and (level == "entries" or level.isdigit()) and len(level) <= 7):
        raise bad
    tile = Tile(ENTRIES if level == "entries" else int(level), int(digits), width)
    if tile.path != path or not 0 < width <= TILE_WIDTH or tile.level > 63:
        raise bad
    return tile


def partial_widths(names: Iterable[str]) -> list[int]:
    """The widths of the partial versions in a tile's folder ``….p``, of all the names in it; the narrowest first."""
    return sorted(int(name) for name in names if _PARTIAL.fullmatch(name))


def width_at(level: int, number: int, size: int) -> int:
    """How many hashes (or entries) a tile holds in a tree of ``size`` leaves: 0 to 256."""
    rows = size >> TILE_HEIGHT * max(level, 0)
    return max(0, min(TILE_WIDTH, rows - number * TILE_WIDTH))


def tiles_of(size: int, *, since: int = 0) -> Iterator[Tile]:
    """All hash tiles of a tree of ``size`` leaves that a tree of ``since`` leaves does not have in the same width."""
    level = 0
    while rows := size >> TILE_HEIGHT * level:
        before = since >> TILE_HEIGHT * level
        if rows > before:
            for number in range(before // TILE_WIDTH, (rows + TILE_WIDTH - 1) // TILE_WIDTH):
                yield Tile(level, number, min(TILE_WIDTH, rows - number * TILE_WIDTH))
        level += 1


def bundles_of(size: int, *, since: int = 0) -> Iterator[Tile]:
    """As ``tiles_of``, of entry bundles."""
    for number in range(since // TILE_WIDTH, (size + TILE_WIDTH - 1) // TILE_WIDTH):
        yield Tile(ENTRIES, number, min(TILE_WIDTH, size - number * TILE_WIDTH))


def edge_of(size: int) -> Iterator[Tile]:
    """The partial hash tiles of a tree of ``size`` leaves."""
    level = 0
    while rows := size >> TILE_HEIGHT * level:
        if rows % TILE_WIDTH:
            yield Tile(level, rows // TILE_WIDTH, rows % TILE_WIDTH)
        level += 1


def encode_entries(entries: Iterable[bytes]) -> bytes:
    """An entry bundle. Raises LedgerError for an entry that is too long."""
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise LedgerError(f"an entry of {len(entry):,} bytes: the format takes at most {MAX_ENTRY_BYTES:,}")
        parts.append(len(entry).to_bytes(2, "big"))
        parts.append(entry)
    return b"".join(parts)


def decode_entries(bundle: bytes, *, where: str = "entry bundle", width: int | None = None) -> list[bytes]:
    """The entries of a bundle, of which it must hold ``width`` where that is given. Raises LedgerCorrupt."""
    entries: list[bytes] = []
    at, end = 0, len(bundle)
    unpack = struct.Struct(">H").unpack_from
    while at < end:
        if end - at < 2:
            raise LedgerCorrupt(f"{where}: ends within the length of entry {len(entries)} of the bundle")
        (length,) = unpack(bundle, at)
        at += 2
        if end - at < length:
            raise LedgerCorrupt(f"{where}: ends within entry {len(entries)} of the bundle")
        entries.append(bundle[at : at + length])
        at += length
    if width is not None and len(entries) != width:
        raise LedgerCorrupt(f"{where}: holds {len(entries)} entries, not {width}")
    return entries


def decode_hashes(tile: bytes, *, where: str = "tile", width: int) -> list[bytes]:
    """The hashes of a tile of ``width``. Raises LedgerCorrupt."""
    if len(tile) != width * HASH_BYTES:
        raise LedgerCorrupt(f"{where}: {len(tile)} bytes, not {width} hashes of {HASH_BYTES}")
    return [tile[i : i + HASH_BYTES] for i in range(0, len(tile), HASH_BYTES)]
