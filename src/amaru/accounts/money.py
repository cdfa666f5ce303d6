"""Money as whole numbers: what sums, limits and reservations are made of.

A cost is exact in pico-dollars (1e-12 USD): prices per million tokens have at most six decimals, so a token costs a
whole number of them. Counters, leases and reservations are nano-dollars (1e-9 USD): Redis' Lua has no integers, only
doubles, which hold whole ones up to 2^53, nine million dollars. A reservation is rounded up, so that it never is less
than what it stands for; a settled cost half to even, so that no sum of many drifts.
"""

from __future__ import annotations

import re
from decimal import Decimal

PICO_PER_USD = 10**12
NANO_PER_USD = 10**9
PICO_PER_NANO = 1000
MAX_AMOUNT_USD = 9_000_000
"""Of one allowance: in nano-dollars it stays below 2^53."""

_AMOUNT = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,9}))?")


def nusd_up(pusd: int) -> int:
    """Pico-dollars in nano-dollars, rounded up: for reservations."""
    return -(-pusd // PICO_PER_NANO)


def nusd_half_even(pusd: int) -> int:
    """Pico-dollars in nano-dollars, rounded to the nearest and half to even: for what is settled.

    Examples
    --------
    >>> nusd_half_even(1_500), nusd_half_even(2_500), nusd_half_even(2_501)
    (2, 2, 3)
    """
    whole, rest = divmod(pusd, PICO_PER_NANO)
    return whole + (2 * rest + (whole & 1) > PICO_PER_NANO)


def usd_of(pusd: int) -> float:
    """Pico-dollars in dollars: the nearest double."""
    return pusd / PICO_PER_USD


def nusd_of_amount(amount: object) -> int:
    """An amount of US dollars as people write it, ``100`` or ``12.50``, in nano-dollars; exact.

    A float is what its shortest decimal form says, so 0.1 is ten cents.

    Raises
    ------
    ValueError
        It is negative, too large, finer than nine decimals, or not a plain number. The message says what to write.

    Examples
    --------
    >>> nusd_of_amount("12.50")
    12500000000
    """
    plain = isinstance(amount, str | int | float) and not isinstance(amount, bool)
    text = f"{Decimal(repr(amount)):f}" if plain and isinstance(amount, float) else str(amount).strip()
    written = _AMOUNT.fullmatch(text) if plain else None
    if written is None:
        if plain and re.fullmatch(r"-[0-9.]+", text):
            raise ValueError(f"an amount must be at least 0, not {text}")
        if plain and re.fullmatch(r"[0-9]{1,18}\.[0-9]{10,}", text):
            raise ValueError(f"an amount has at most nine decimals, not {text[:40]}")
        raise ValueError(f"not an amount of US dollars: {text[:40]!r}; write digits alone, like 100 or 12.50")
    whole, decimals = written.groups()
    nusd = int(whole) * NANO_PER_USD + int((decimals or "").ljust(9, "0"))
    if nusd > MAX_AMOUNT_USD * NANO_PER_USD:
        raise ValueError(f"an amount is at most {MAX_AMOUNT_USD} US dollars, not {text}")
    return nusd


def format_usd(nusd: int) -> str:
    """Nano-dollars for people: cents from a dollar on, below it four significant digits; half to even.

    Examples
    --------
    >>> format_usd(12_345_678), format_usd(1_234_500_000_000), format_usd(-500_000_000), format_usd(0)
    ('$0.01235', '$1,234.50', '-$0.50', '$0.00')
    """
    magnitude = abs(nusd)
    digits = len(str(magnitude))
    decimals = 2 if magnitude >= NANO_PER_USD else min(max(2, 13 - digits), 9)
    shown = f"{round(Decimal(magnitude) / NANO_PER_USD, decimals):,f}"
    whole, _, fraction = shown.partition(".")
    return f"{'-' if nusd < 0 else ''}${whole}.{fraction[:2]}{fraction[2:].rstrip('0')}"


def usd_text(pusd: int) -> str:
    """Pico-dollars in dollars, exactly; at least two decimals, without the zeros after them.

    Examples
    --------
    >>> usd_text(1_234_500_000_001), usd_text(-500_000_000_000)
    ('1.234500000001', '-0.50')
    """
    whole, fraction = divmod(abs(pusd), PICO_PER_USD)
    decimals = f"{fraction:012d}".rstrip("0").ljust(2, "0")
    return f"{'-' if pusd < 0 else ''}{whole}.{decimals}"
