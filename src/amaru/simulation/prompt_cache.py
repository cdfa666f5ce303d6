"""The provider's cache of prompt prefixes: which part of a prompt it saw lately, and bills at the cached price."""

from __future__ import annotations

import math
import zlib
from collections import OrderedDict

from amaru.simulation.text import count_tokens

BLOCK_CHARACTERS = 512
MIN_TOKENS = 128
"""Shorter hits are not counted (OpenAI counts in steps of 128 tokens)."""


class PromptCache:
    """Prefixes by blocks of 512 characters, the least recently used forgotten first."""

    def __init__(self, blocks: int = 50_000) -> None:
        self._blocks = blocks
        self._seen: OrderedDict[int, None] = OrderedDict()

    def look_up(self, prompt: str) -> int:
        """How many leading tokens of ``prompt`` were seen before; from now on it is seen."""
        whole_blocks = len(prompt) // BLOCK_CHARACTERS
        known, key, hit = 0, 0, True
        for block in range(whole_blocks):
            piece = prompt[block * BLOCK_CHARACTERS : (block + 1) * BLOCK_CHARACTERS]
            # Each block's key covers all before it: only a common beginning counts.
            key = (zlib.crc32(piece.encode("utf-8", "surrogatepass"), key & 0xFFFFFFFF) << 32) | (block + 1)
            hit = hit and key in self._seen
            known += hit
            self._seen[key] = None
            self._seen.move_to_end(key)
        while len(self._seen) > self._blocks:
            self._seen.popitem(last=False)
        return _tokens(prompt, known)


def kept_tokens(prompt: str) -> int:
    """How many leading tokens of ``prompt`` a cache takes up, whether they were in it or not."""
    return _tokens(prompt, len(prompt) // BLOCK_CHARACTERS)


def _tokens(prompt: str, blocks: int) -> int:
    tokens = count_tokens(prompt[: blocks * BLOCK_CHARACTERS]) if blocks else 0
    return math.floor(tokens / MIN_TOKENS) * MIN_TOKENS
