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


def words_of(text: str, *, stems: bool = True) -> list[str]:
    """The words of ``text`` in their order; ``stems=False`` leaves plurals as they are."""
    if text.isascii():
        folded = text.lower()
    else:
        folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
        folded = "".join(char for char in folded if not unicodedata.combining(char))
    words = [word[:MAX_WORD] for word in _WORD.findall(folded)]
    return [_singular(word) for word in words] if stems else words


def _singular(word: str) -> str:
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word if word.endswith(("eies", "aies")) else word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1]
