"""The words of a text, as they are indexed and looked for: one function, so that SQLite and PostgreSQL find the same.

A word is a run of letters and digits, without case and accents, in the singular where it is a plain English plural
(the S-stemmer: Harman, "How effective is suffixing?", JASIS 42, 1991, widened by ``-sses``, ``-xes``, ``-ches``,
``-shes``).
"""

from __future__ import annotations

import re
import unicodedata

MAX_WORD = 64
"""Characters; a SHA-256 in hex fits."""
MAX_WORDS = 2_048
"""Of one receipt that are indexed: its first. The longest note has no more."""

_WORD = re.compile(r"[^\W_]+")
_ASCII = bytes(ord(chr(code).lower() if chr(code).isalnum() else " ") for code in range(128)).ljust(256)
"""Of plain text: letters become small ones, digits stay, all else parts words. Many times as fast as the pattern."""


def words_of(text: str, *, stems: bool = True) -> list[str]:
    """The words of ``text`` in their order; ``stems=False`` leaves plurals as they are."""
    if text.isascii():
        words = text.encode().translate(_ASCII).decode().split()
    else:
        folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
        folded = "".join(char for char in folded if not unicodedata.combining(char))
        words = _WORD.findall(folded)
    if not stems:
        return [word[:MAX_WORD] for word in words]
    return [word if word[-1] != "s" and len(word) <= MAX_WORD else _singular(word[:MAX_WORD]) for word in words]


def _singular(word: str) -> str:
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word if word.endswith(("eies", "aies")) else word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1]
