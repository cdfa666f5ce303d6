"""One mistake, in one line: where it stands, what is wrong, what to write instead. Never a secret."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

Loc = tuple[str | int, ...]
"""Where something stands in the file: ``("offers", 3, "price")``."""

_SECRET_PREFIXES = re.compile(
    r"(?i)^(bearer\s|sk[-_]|pk[-_]|rk[-_]|gsk_|xai-|csk-|fw_|hf_|nvapi-|AIza|tgp_|ghp_|github_pat_|eyJ|AKIA|-----BEGIN)"
)
_UUID = re.compile(r"(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_WORD = re.compile(r"[A-Za-z0-9]{16,}")
_RUN = re.compile(r"[A-Za-z0-9+/=_-]{32,}")
_SHOWN_CHARACTERS = 60
_MAX_GUESSES = 2_000
"""Comparing a word takes microseconds for each known one; with more than these, no closest one is looked for."""

MAX_PROBLEMS = 1_000
"""Of each kind; a file with more is not the file that was meant, and naming them all would take minutes."""


def looks_secret(text: str) -> bool:
    """Whether a text could be a key: by the prefixes that providers use, as a UUID, or by its randomness.

    Random is a word of 16 characters with letters, digits and 3 bits of Shannon entropy a character (hexadecimal), or
    a run of 32 with both cases, digits and 4.3 bits (base64, whose dashes end words); paths of models have less. A
    false alarm costs an error message its quotation; a miss prints a key.
    """
    if _SECRET_PREFIXES.search(text.strip()) or _UUID.search(text):
        return True
    words = any(_has(word, r"\d", r"[A-Za-z]") and _bits(word) >= 3 for word in _WORD.findall(text))
    return words or any(_has(run, r"\d", r"[A-Z]", r"[a-z]") and _bits(run) >= 4.3 for run in _RUN.findall(text))


def _has(text: str, *patterns: str) -> bool:
    return all(re.search(pattern, text) for pattern in patterns)


def _bits(text: str) -> float:
    """Shannon entropy per character."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def shown(value: object) -> str:
    """A value as it may stand in a message: quoted, shortened, one line, and left out where it could be a secret."""
    if isinstance(value, str):
        if looks_secret(value):
            return "(not shown: it looks like a secret)"
        cut = value if len(value) <= _SHOWN_CHARACTERS else value[:_SHOWN_CHARACTERS] + "…"
        return json.dumps(cut, ensure_ascii=False)
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        # A number of thousands of digits cannot even be printed (PEP 678's sibling: the int conversion limit).
        return str(value) if isinstance(value, float) or abs(value) < 10**20 else "a huge number"
    return "a mapping" if isinstance(value, dict) else "a list"


def dotted(loc: Loc) -> str:
    """``offers[3].price``: the way people write a place in a file."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = "…" if looks_secret(part) or len(part) > _SHOWN_CHARACTERS else part
            text += f".{name}" if text else name
    return "".join(c if c.isprintable() else "?" for c in text)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """The closest of the known words, in words; ``None`` where none is close."""
    words = sorted(set(known))
    if len(words) > _MAX_GUESSES or len(word) > 200:
        return None
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"did you mean {shown(close[0])}?" if close else None


def suggest(word: str, known: Iterable[str], otherwise: str) -> str:
    """A remedy for an unknown word: the closest known one, else all of them where they are few, else ``otherwise``."""
    words = sorted(set(known))
    guess = did_you_mean(word, words)
    if guess:
        return guess
    return f"known: {', '.join(words)}" if 0 < len(words) <= 12 and not any(map(looks_secret, words)) else otherwise


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. ``source`` names the environment variable that set the value, where one did."""

    loc: Loc
    what: str
    remedy: str = ""
    line: int | None = None
    column: int | None = None
    source: str | None = None

    def render(self, file: str) -> str:
        """``amaru.yaml:12: providers.openai.base_url: not a URL: "x" — write it with https://, …``."""
        where = [f"environment variable {self.source}"] if self.source else [_position(file, self.line, self.column)]
        if self.loc:
            where.append(dotted(self.loc))
        return f"{': '.join(where)}: {self.what}" + (f" — {self.remedy}" if self.remedy else "")


def _position(file: str, line: int | None, column: int | None) -> str:
    return ":".join(str(part) for part in (file, line, column) if part is not None)
