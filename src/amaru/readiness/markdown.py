"""Markdown out of figures, and out of strings that somebody else chose."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence

_SPECIAL = re.compile(r"[\\`*\[\]<>|~&@$]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.|^[-+#=]", re.I)
"""What Markdown, its GitHub dialect (tables, formulas, links made of bare addresses) or HTML could take for its own;
no more, so that the file also reads well as it is."""


def plain(text: str, longest: int = 200) -> str:
    """``text`` on one line, without what cannot be seen or turns the reading direction, cut to ``longest`` characters.

    Lone surrogates, as they come from file names that are no UTF-8, become question marks.
    """
    whole = text[: 8 * longest].encode("utf-8", "replace").decode("utf-8")
    seen = "".join(" " if unicodedata.category(sign) in ("Cc", "Cf", "Zl", "Zp") else sign for sign in whole)
    words = " ".join(seen.split())
    return words if len(words) <= longest else words[: longest - 1] + "…"


def escaped(text: str, longest: int = 200) -> str:
    """``text`` as Markdown that shows exactly that, whatever stands in it; for use within a line."""
    return _SPECIAL.sub(r"\\\g<0>", plain(text, longest))


def code_block(text: str) -> str:
    """``text`` as one line of a fenced block that it cannot leave."""
    words = plain(text, 4000)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", words)), default=0))
    return f"{fence}\n{words}\n{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: Collection[int] = (0,)) -> str:
    """A table of cells that are Markdown already. Columns stand to the right, but for those at the places ``words``."""
    lines = [head, tuple("---" if place in words else "---:" for place in range(len(head))), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def seconds(value_s: float | None) -> str:
    """A time to three digits, in the unit that suits it; a dash where there is none."""
    if value_s is None:
        return "-"
    if not value_s:
        return "0 ms"
    if abs(value_s) < 0.0009995:
        return f"{_digits(value_s * 1e6)} µs"
    if abs(value_s) < 0.9995:
        return f"{_digits(value_s * 1000)} ms"
    return f"{_digits(value_s)} s"


def chosen_seconds(value_s: float) -> str:
    """A time that somebody chose, with the digits that they gave it."""
    return f"{value_s * 1000:g} ms" if value_s < 1 else f"{value_s:g} s"


def number(value: float) -> str:
    """A figure to three digits, or whole with its thousands set apart."""
    return f"{value:,.0f}" if abs(value) >= 99.95 or not value else _digits(value)


def share(value: float | None) -> str:
    """A share in percent; 100 % only where nothing is missing, and 0 % only where there is nothing."""
    if value is None:
        return "-"
    if 0.9995 <= value < 1:
        return ">99.9 %"
    if 0 < value < 0.0005:
        return "<0.1 %"
    return f"{value:.1%}".replace("%", " %")


def counted(count: int, noun: str) -> str:
    """So many of them: ``3 requests``, ``1 request``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def usd(amount: float) -> str:
    """An amount of money: to the cent, or small ones to three digits."""
    return f"${amount:,.2f}" if amount >= 1 or not amount else f"${amount:#.3g}"


def _digits(value: float) -> str:
    size = abs(value)
    return f"{value:.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"
