"""The prompts of a trace's requests: as long as it says, alike where it says, and cheap to make.

A trace holds no text, only how many tokens each prompt had and, in some formats, the names of its blocks. Here the same
name always gives the same text, so that the caches of prompt prefixes behind an endpoint really hit, as they did in
production; everything else is text that no other request has, so that they hit nowhere else.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from itertools import chain, repeat
from struct import unpack

from amaru.simulation.text import VOCABULARY
from amaru.simulation.traces import BLOCK_TOKENS, TraceRequest

# Common English words, which the tokenizers of real models know as one token each; two, three and four letters equally
# often, so that a token takes four characters: the rule of thumb of gateways that estimate tokens (ours does).
_WORDS = tuple(word for word in VOCABULARY if word.isascii() and word.isalpha() and 2 <= len(word) <= 4)
_LETTERS = Counter(map(len, _WORDS))
_CORPUS_WORDS = 1 << 17
_HEAD_SLICES = 3
_HEAD_WORDS = 2
"""A block begins with short slices: with six words, no two blocks are alike by chance, and they part at once."""


class Prompts:
    """Makes prompts. The same seed makes the same ones, in the same order of requests; another seed, others.

    Each block is put together from slices of one long text, at places drawn from the block's name: nothing need be
    remembered, and a prompt of 100,000 tokens takes a millisecond.
    """

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 -- reproducible, not secret
        drawn = rng.choices(_WORDS, [1 / _LETTERS[len(word)] for word in _WORDS], k=_CORPUS_WORDS)
        self._text = " ".join(drawn)
        self._starts = array("I", [0])
        for word in drawn:
            self._starts.append(self._starts[-1] + len(word) + 1)
        self._seed = str(seed).encode()[: blake2b.MAX_KEY_SIZE]
        self._made = 0

    def for_request(self, request: TraceRequest) -> str:
        """The prompt of a request: exactly its tokens by the simulator's rule (one a word), and at least one."""
        left = max(1, request.input_tokens)
        pieces: list[str] = []
        self._made += 1
        for name, tokens in self._blocks(request, left):
            self._add(pieces, name, tokens, min(tokens, left))
            left -= tokens
        return " ".join(pieces)

    def _blocks(self, request: TraceRequest, tokens: int) -> Iterator[tuple[bytes, int]]:
        """Name and size of each block: the trace's own, then those of text that is this request's alone."""
        for block in request.blocks:
            yield b"block %b" % str(block).encode("utf-8", "surrogatepass"), request.block_tokens
        unnamed = tokens - len(request.blocks) * request.block_tokens
        for place in range(-(-unnamed // BLOCK_TOKENS)):
            yield b"request %d %d" % (self._made, place), BLOCK_TOKENS

    def _add(self, pieces: list[str], name: bytes, tokens: int, wanted: int) -> None:
        """Add the first ``wanted`` of a block's ``tokens``: a block that is cut begins like the whole one."""
        text, starts = self._text, self._starts
        digest = blake2b(name, key=self._seed, digest_size=4 * (_HEAD_SLICES + 1)).digest()
        *heads, rest = unpack(f"<{_HEAD_SLICES + 1}I", digest)
        long = min(max(tokens, 1), _CORPUS_WORDS // 2)  # a block may be larger than the text: then it repeats
        for place, size in chain(zip(heads, repeat(_HEAD_WORDS), strict=False), repeat((rest, long))):
            take = min(size, wanted)
            first = place % (_CORPUS_WORDS - size)
            pieces.append(text[starts[first] : starts[first + take] - 1])
            wanted -= take
            if wanted <= 0:
                return
