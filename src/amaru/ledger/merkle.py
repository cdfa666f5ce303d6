"""The Merkle tree of RFC 6962, section 2.1, as pure functions; proofs are verified as in RFC 9162, section 2.1.

Hashes are SHA-256, 32 bytes. A subtree is named by the range ``[start, end)`` of leaves under it, a perfect one (whose
leaves number a power of two, at a multiple of it) also by ``(level, index)``: leaves ``index << level`` and on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256

from amaru.errors import ProofError

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()
"""The root of a tree without leaves."""
MAX_SIZE = (1 << 63) - 1
"""No tree is larger: sizes fit every language's signed 64-bit integers."""

Range = tuple[int, int]
Node = tuple[int, int]


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf: leaves and nodes are told apart by their first byte, so that none can pass for the other."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


def split(size: int) -> int:
    """How many of ``size`` leaves (2 or more) stand under the left child: the largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1


def root_of(leaf_hashes: Sequence[bytes]) -> bytes:
    """MTH, the root over leaf hashes.

    Nodes may stand for leaves, where each but the last is the root of a perfect tree of one size and the last is of
    that size or smaller.
    """
    if not leaf_hashes:
        return EMPTY_ROOT
    row = list(leaf_hashes)
    while len(row) > 1:
        above = [sha256(b"\x01" + row[i] + row[i + 1]).digest() for i in range(0, len(row) - 1, 2)]
        if len(row) % 2:
            above.append(row[-1])
        row = above
    return row[0]


class Frontier:
    """The roots of the perfect trees that a tree falls into, widest first: all that is needed to append and to sum up.

    ``size`` is the number of leaves. ``push`` takes a leaf's hash in constant time on average; ``root`` takes as many
    hashes as there are ones in ``size``.
    """

    def __init__(self, size: int = 0, roots: Sequence[bytes] = ()) -> None:
        if size.bit_count() != len(roots):
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} perfect ones, not {len(roots)}")
        self.size = size
        self.roots = list(roots)

    def push(self, leaf: bytes) -> list[bytes]:
        """Append a leaf hash; returns the roots that it made, from the leaf itself up, one for each level."""
        made = [leaf]
        size = self.size
        roots = self.roots
        while size & 1:
            leaf = sha256(b"\x01" + roots.pop() + leaf).digest()
            made.append(leaf)
            size >>= 1
        roots.append(leaf)
        self.size += 1
        return made

    def root(self) -> bytes:
        """The root of the whole tree."""
        if not self.roots:
            return EMPTY_ROOT
        found = self.roots[-1]
        for left in reversed(self.roots[:-1]):
            found = node_hash(left, found)
        return found

    def copy(self) -> Frontier:
        """A second one that goes its own way."""
        return Frontier(self.size, self.roots)


# ---- which subtrees a proof is made of ------------------------------------------------------------------------------


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """PATH(index, D[size]): the subtrees whose roots prove a leaf, from its sibling up. Raises ProofError."""
    _require_index(index, size)
    path: list[Range] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + split(end - start)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return path[::-1]


def consistency_ranges(old_size: int, new_size: int) -> list[Range]:
    """PROOF(old_size, D[new_size]): the subtrees whose roots prove that one tree begins with another.

    Raises ProofError.
    """
    _require_sizes(old_size, new_size)
    if old_size in (0, new_size):
        return []
    path: list[Range] = []
    start, end = 0, new_size
    while end != old_size:
        middle = start + split(end - start)
        if old_size <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    if start:  # else the old tree is a subtree of the new one, and whoever verifies knows its root
        path.append((start, end))
    return path[::-1]


def perfect_nodes(start: int, end: int) -> Iterator[Node]:
    """The perfect subtrees, as ``(level, index)`` and from the left, that a subtree of some tree falls into."""
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        yield level, start >> level
        start += 1 << level


def range_root(start: int, end: int, node: Callable[[int, int], bytes]) -> bytes:
    """The root of a subtree, from ``node(level, index)`` of the perfect ones that it falls into."""
    parts = [node(level, index) for level, index in perfect_nodes(start, end)]
    if not parts:
        return EMPTY_ROOT
    root = parts.pop()
    while parts:
        root = node_hash(parts.pop(), root)
    return root


# ---- verifying ------------------------------------------------------------------------------------------------------


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf hash ``leaf`` stands at ``index`` of the tree with this size and root (RFC 9162, 2.1.3.2).

    Raises ProofError.
    """
    _require_index(index, size)
    _require_hashes("proof of inclusion", path, leaf, root)
    expected = len(inclusion_ranges(index, size))
    if len(path) != expected:
        raise ProofError(
            f"proof of inclusion: {len(path)} hashes, where leaf {index} of a tree of {size} takes {expected} — "
            "it was made for another index or another size"
        )
    node, last, found = index, size - 1, leaf
    for sibling in path:
        if node & 1 or node == last:
            found = node_hash(sibling, found)
            while not node & 1 and node:  # the right edge, where a node without sibling rises as it is
                node >>= 1
                last >>= 1
        else:
            found = node_hash(found, sibling)
        node >>= 1
        last >>= 1
    if last or found != root:
        raise ProofError(
            f"proof of inclusion: leaf {index} of a tree of {size} gives the root {found.hex()}, not {root.hex()} — "
            "the entry, its index, or the tree is another one"
        )


def verify_consistency(old_size: int, new_size: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> None:
    """Check that the larger tree begins with all leaves of the smaller, in order (RFC 9162, 2.1.4.2).

    Every tree begins with the empty one. Raises ProofError.
    """
    what = f"proof of consistency from {old_size} to {new_size}"
    _require_sizes(old_size, new_size)
    _require_hashes(what, path, old_root, new_root)
    expected = len(consistency_ranges(old_size, new_size))
    if len(path) != expected:
        raise ProofError(f"{what}: {len(path)} hashes, not {expected} — it was made for other sizes")
    if old_size == new_size and old_root != new_root:
        raise ProofError(f"{what}: two trees of one size with different roots, {old_root.hex()} and {new_root.hex()}")
    if old_size == 0 and old_root != EMPTY_ROOT:
        raise ProofError(f"{what}: {old_root.hex()} is not the root of the empty tree")
    if old_size in (0, new_size):
        return
    hashes = list(path) if old_size & old_size - 1 else [old_root, *path]
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node >>= 1
        last >>= 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if node & 1 or node == last:
            old = node_hash(sibling, old)
            new = node_hash(sibling, new)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        node >>= 1
        last >>= 1
    if old != old_root:
        raise ProofError(f"{what}: it leads to the old root {old.hex()}, not {old_root.hex()} — history was rewritten")
    if last or new != new_root:
        raise ProofError(f"{what}: it leads to the new root {new.hex()}, not {new_root.hex()} — history was rewritten")


def _require_index(index: int, size: int) -> None:
    if not 0 <= index < size <= MAX_SIZE:
        raise ProofError(f"leaf {index} does not stand in a tree of {size} leaves")


def _require_sizes(old_size: int, new_size: int) -> None:
    if not 0 <= old_size <= new_size <= MAX_SIZE:
        raise ProofError(f"a tree of {new_size} leaves does not extend one of {old_size}")


def _require_hashes(what: str, path: Sequence[bytes], *others: bytes) -> None:
    if any(len(value) != HASH_BYTES for value in (*path, *others)):
        raise ProofError(f"{what}: each hash has {HASH_BYTES} bytes; one here has not")
