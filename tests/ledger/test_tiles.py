"""The C2SP tlog-tiles layout."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.errors import LedgerCorrupt, LedgerError
from amaru.ledger.tiles import (
    ENTRIES,
    TILE_WIDTH,
    Tile,
    bundles_of,
    decode_entries,
    decode_hashes,
    edge_of,
    encode_entries,
    parse_path,
    tiles_of,
    width_at,
)


def test_paths_are_those_of_the_specification() -> None:
    assert Tile(0, 1234067).path == "tile/0/x001/x234/067"
    assert Tile(ENTRIES, 1234067, 8).path == "tile/entries/x001/x234/067.p/8"  # Tessera's own example
    assert Tile(2, 0).path == "tile/2/000"
    assert Tile(1, 1000, 255).path == "tile/1/x001/000.p/255"


@given(st.integers(-1, 63), st.integers(0, 10**15), st.integers(1, TILE_WIDTH))
def test_a_path_is_read_back(level: int, number: int, width: int) -> None:
    tile = Tile(level, number, width)
    assert parse_path(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile",
        "tile/0",
        "tile/0/0",
        "tile/0/1234",
        "tile/0/x000/001",
        "tile/00/001",
        "tile/64/001",
        "tile/-1/001",
        "tile/0/001.p/0",
        "tile/0/001.p/256",
        "tile/0/001.p/01",
        "tile/0/x001",
        "tile/entries/../../etc/passwd",
        "tile/0/001/",
        "/tile/0/001",
        "tile/0/٠٠١",
        "tile/data/001",
        "tile/0/x" + "9" * 30,
    ],
)
def test_any_other_path_is_refused(path: str) -> None:
    with pytest.raises(LedgerError, match="not the path of a tile"):
        parse_path(path)


@given(st.text(max_size=40))
def test_any_text_is_a_path_or_refused(text: str) -> None:
    try:
        tile = parse_path(text)
    except LedgerError:
        return
    assert tile.path == text


def test_the_tiles_of_the_specifications_trees() -> None:
    tiles = list(tiles_of(70_000))
    assert sum(tile.level == 0 and tile.width == TILE_WIDTH for tile in tiles) == 273
    assert [tile for tile in tiles if tile.width < TILE_WIDTH] == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert list(tiles_of(256)) == [Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_of(0)) == []


@given(st.integers(0, 200_000), st.integers(0, 2_000))
def test_a_tree_grows_by_the_tiles_that_changed(since: int, more: int) -> None:
    size = since + more
    before, after = set(tiles_of(since)), set(tiles_of(size))
    assert set(tiles_of(size, since=since)) == after - before
    assert {t for t in after if t.width < TILE_WIDTH} == set(edge_of(size))
    assert all(width_at(t.level, t.number, size) == t.width for t in after)
    assert sum(bundle.width for bundle in bundles_of(size)) == size


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_entries_are_read_back(entries: list[bytes]) -> None:
    assert decode_entries(encode_entries(entries), width=len(entries)) == entries


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5), st.data())
def test_a_bundle_cut_short_is_refused(entries: list[bytes], data: st.DataObject) -> None:
    bundle = encode_entries(entries)
    cut = bundle[: data.draw(st.integers(0, len(bundle) - 1))]
    with pytest.raises(LedgerCorrupt, match=r"ends within|holds \d entries"):
        decode_entries(cut, width=len(entries))


def test_limits_are_named() -> None:
    assert decode_entries(encode_entries([b"x" * 65_535])) == [b"x" * 65_535]
    with pytest.raises(LedgerError, match="at most 65,535"):
        encode_entries([b"x" * 65_536])
    with pytest.raises(LedgerCorrupt, match="not 2 hashes"):
        decode_hashes(b"x" * 63, width=2)
