"""RFC 6962 trees: the reference trees of Certificate Transparency, and a naive tree to compare with."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.errors import ProofError
from amaru.ledger import merkle
from amaru.ledger.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
    node_hash,
    perfect_nodes,
    range_root,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The leaves and roots that the implementations of Certificate Transparency have tested with since RFC 6962.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
# Index, size, and the path, as in the same tests.
INCLUSION = [
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
CONSISTENCY = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]


def naive_root(hashes: list[bytes]) -> bytes:
    """MTH, word for word."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return node_hash(naive_root(hashes[:k]), naive_root(hashes[k:]))


def naive_path(m: int, hashes: list[bytes]) -> list[bytes]:
    """PATH(m, D[n]), word for word."""
    if len(hashes) == 1:
        return []
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if m < k:
        return [*naive_path(m, hashes[:k]), naive_root(hashes[k:])]
    return [*naive_path(m - k, hashes[k:]), naive_root(hashes[:k])]


def naive_proof(m: int, hashes: list[bytes], whole: bool = True) -> list[bytes]:
    """SUBPROOF(m, D[n], b), word for word."""
    if m == len(hashes):
        return [] if whole else [naive_root(hashes)]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if m <= k:
        return [*naive_proof(m, hashes[:k], whole), naive_root(hashes[k:])]
    return [*naive_proof(m - k, hashes[k:], False), naive_root(hashes[:k])]


def hashes_of(size: int) -> list[bytes]:
    return [leaf_hash(number.to_bytes(4, "big")) for number in range(size)]


@pytest.mark.parametrize("size", range(9))
def test_the_reference_trees_have_their_roots(size: int) -> None:
    hashes = [leaf_hash(leaf) for leaf in LEAVES[:size]]
    assert root_of(hashes).hex() == ROOTS[size]
    frontier = Frontier()
    for value in hashes:
        frontier.push(value)
    assert frontier.root().hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size", "path"), INCLUSION)
def test_the_reference_paths_of_inclusion(index: int, size: int, path: list[str]) -> None:
    hashes = [leaf_hash(leaf) for leaf in LEAVES[:size]]
    made = [root_of(hashes[start:end]).hex() for start, end in inclusion_ranges(index, size)]
    assert made == path
    verify_inclusion(hashes[index], index, size, [bytes.fromhex(p) for p in path], bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("old", "new", "path"), CONSISTENCY)
def test_the_reference_paths_of_consistency(old: int, new: int, path: list[str]) -> None:
    hashes = [leaf_hash(leaf) for leaf in LEAVES[:new]]
    made = [root_of(hashes[start:end]).hex() for start, end in consistency_ranges(old, new)]
    assert made == path
    proof = [bytes.fromhex(p) for p in path]
    verify_consistency(old, new, bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new]), proof)


@given(st.integers(0, 300))
def test_every_way_to_a_root_gives_the_naive_one(size: int) -> None:
    hashes = hashes_of(size)
    frontier = Frontier()
    for value in hashes:
        frontier.push(value)
    assert naive_root(hashes) == root_of(hashes) == frontier.root()
    assert range_root(0, size, lambda lv, i: naive_root(hashes[i << lv : (i + 1) << lv])) == frontier.root()
    assert frontier.roots == [naive_root(hashes[i << lv : (i + 1) << lv]) for lv, i in perfect_nodes(0, size)]


@given(st.data())
def test_proofs_are_the_naive_ones_and_verify(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 200))
    hashes = hashes_of(size)
    root = naive_root(hashes)
    index = data.draw(st.integers(0, size - 1))
    path = [naive_root(hashes[start:end]) for start, end in inclusion_ranges(index, size)]
    assert path == naive_path(index, hashes)
    verify_inclusion(hashes[index], index, size, path, root)
    old = data.draw(st.integers(1, size))
    proof = [naive_root(hashes[start:end]) for start, end in consistency_ranges(old, size)]
    assert proof == naive_proof(old, hashes)
    verify_consistency(old, size, naive_root(hashes[:old]), root, proof)


@given(st.data())
def test_a_proof_altered_anywhere_is_rejected(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 100))
    hashes = hashes_of(size)
    root = naive_root(hashes)
    index = data.draw(st.integers(0, size - 1))
    path = naive_path(index, hashes)
    kind = data.draw(st.sampled_from(["bit", "shorter", "longer", "index", "size", "leaf", "root", "swap"]))
    leaf, at, of = hashes[index], index, size
    if kind == "bit":
        where = data.draw(st.integers(0, len(path) - 1))
        path[where] = bytes([path[where][0] ^ 1]) + path[where][1:]
    elif kind == "shorter":
        path.pop(data.draw(st.integers(0, len(path) - 1)))
    elif kind == "longer":
        path.insert(data.draw(st.integers(0, len(path))), data.draw(st.sampled_from([root, leaf, path[0]])))
    elif kind == "index":
        at = data.draw(st.integers(0, size - 1).filter(lambda other: other != index))
    elif kind == "size":
        # Only a size of another shape is told by inclusion alone; the signed size is the checkpoint's.
        of = data.draw(st.integers(size + 1, 4 * size).filter(lambda n: len(inclusion_ranges(at, n)) != len(path)))
    elif kind == "leaf":
        leaf = data.draw(st.sampled_from([h for h in hashes if h != leaf]))
    elif kind == "root":
        root = EMPTY_ROOT
    else:
        path = path[::-1]
        if path == naive_path(index, hashes):
            return
    with pytest.raises(ProofError):
        verify_inclusion(leaf, at, of, path, root)


@given(st.data())
def test_a_proof_of_consistency_altered_anywhere_is_rejected(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 100))
    old = data.draw(st.integers(1, size - 1))
    hashes = hashes_of(size)
    roots = [naive_root(hashes[:old]), naive_root(hashes)]
    proof = naive_proof(old, hashes)
    kind = data.draw(st.sampled_from(["bit", "shorter", "longer", "old root", "new root", "old tree"]))
    if kind == "bit":
        where = data.draw(st.integers(0, len(proof) - 1))
        proof[where] = proof[where][:31] + bytes([proof[where][31] ^ 128])
    elif kind == "shorter":
        proof.pop()
    elif kind == "longer":
        proof.append(roots[1])
    elif kind == "old tree":
        rewritten = [*hashes]
        rewritten[data.draw(st.integers(0, old - 1))] = leaf_hash(b"another history")
        roots[0] = naive_root(rewritten[:old])
    else:
        roots[kind == "new root"] = leaf_hash(b"another root")
    with pytest.raises(ProofError):
        verify_consistency(old, size, *roots, proof)


@pytest.mark.parametrize(
    ("old", "new", "old_root", "new_root", "path", "words"),
    [
        (3, 2, EMPTY_ROOT, EMPTY_ROOT, [], "does not extend"),
        (-1, 2, EMPTY_ROOT, EMPTY_ROOT, [], "does not extend"),
        (0, 2, leaf_hash(b""), EMPTY_ROOT, [], "empty tree"),
        (2, 2, leaf_hash(b"a"), leaf_hash(b"b"), [], "two trees of one size"),
        (0, 2, EMPTY_ROOT, leaf_hash(b""), [EMPTY_ROOT], "1 hashes, not 0"),
        (1, 2, leaf_hash(b"a"), leaf_hash(b"b"), [b"short"], "32 bytes"),
    ],
)
def test_what_cannot_be_consistent_is_named(
    old: int, new: int, old_root: bytes, new_root: bytes, path: list[bytes], words: str
) -> None:
    with pytest.raises(ProofError, match=words):
        verify_consistency(old, new, old_root, new_root, path)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 4), (5, 2), (0, merkle.MAX_SIZE + 1)])
def test_an_index_outside_the_tree_is_refused(index: int, size: int) -> None:
    with pytest.raises(ProofError, match="does not stand in a tree"):
        verify_inclusion(EMPTY_ROOT, index, size, [], EMPTY_ROOT)


def test_a_leaf_never_passes_for_a_node() -> None:
    left, right = hashes_of(2)
    assert leaf_hash(left + right) != node_hash(left, right)
    with pytest.raises(ValueError, match="perfect ones"):
        Frontier(3, [left])
