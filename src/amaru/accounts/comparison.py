"""What differs between a provider's bill and our charges, by cause."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterator

import msgspec


class Cause(enum.StrEnum):
    """Why two figures differ; the first that fits."""

    MISSING_HERE = "missing here"
    """They billed it, and we have no charge."""
    MISSING_THERE = "missing there"
    """We charged it, and they have not billed it."""
    UNKNOWN_USAGE = "unknown usage"
    """We never learned its usage: our figure is a count or an estimate."""
    TOKENS = "tokens differ"
    COST = "cost differs"
    """The export tells no tokens."""
    PRICE = "price differs"
    """At the same tokens."""
    ROUNDING = "rounding"
    """By no more than one in the last decimal of the export."""
    WINDOW = "outside the window"
    """It agrees, but by one clock it is inside the span of time and by the other it is not."""


class Side(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One side's figures; ``None``: it does not tell."""

    requests: int | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    pusd: int | None = None

    @property
    def is_nothing(self) -> bool:
        """Neither tokens nor money."""
        return not (self.input_tokens or self.cached_input_tokens or self.output_tokens or self.pusd)


NOTHING = Side(requests=0, input_tokens=0, cached_input_tokens=0, output_tokens=0, pusd=0)


class Finding(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request, or a model's use in a day, and how both sides have it."""

    cause: Cause | None
    """``None``: they agree."""
    at: float
    """Unix seconds: the charge's, else the line's; of a day its begin."""
    model: str
    """By the provider's name."""
    ours: Side | None
    theirs: Side | None
    line: int | None = None
    """Of the export."""
    ref: str | None = None
    charge: str | None = None
    standing: bool = False
    known: bool = True
    corrections: int = 0
    """Rows that correct it already."""

    @property
    def pusd(self) -> int:
        """What they billed beyond our figure; 0 where they tell no cost."""
        ours, theirs = self.ours or NOTHING, self.theirs or NOTHING
        return 0 if theirs.pusd is None else theirs.pusd - (ours.pusd or 0)


class Sum(msgspec.Struct):
    """What has one cause."""

    count: int = 0
    ours_pusd: int = 0
    theirs_pusd: int = 0


def cause_of(ours: Side, theirs: Side, *, known: bool, unit_pusd: int) -> Cause | None:
    """Why a pair differs. ``unit_pusd`` is one in the last decimal of their amount."""
    told = [
        (mine, other)
        for mine, other in (
            (ours.input_tokens, theirs.input_tokens),
            (ours.cached_input_tokens, theirs.cached_input_tokens),
            (ours.output_tokens, theirs.output_tokens),
        )
        if other is not None
    ]
    tokens_differ = any(mine != other for mine, other in told)
    apart_pusd = 0 if theirs.pusd is None else abs(theirs.pusd - (ours.pusd or 0))
    if not (tokens_differ or apart_pusd):
        return None
    if not known:
        return Cause.UNKNOWN_USAGE
    if tokens_differ:
        return Cause.TOKENS
    if apart_pusd <= unit_pusd:
        return Cause.ROUNDING
    return Cause.PRICE if told else Cause.COST


class Comparison(ABC):
    """An export beside the charges of one provider in a span of time.

    Attributes
    ----------
    provider, since, until
        What was compared; Unix seconds, ``since`` included.
    causes
        What differs, added up.
    agreed
        How many do not differ.
    ours_pusd, theirs_pusd
        All that was compared, whether it differs or not.
    outside
        Lines that were not compared.
    priced
        Whether the export tells costs.
    ids_unknown
        Both sides have ids, none of them in common.
    """

    provider: str
    since: float
    until: float
    priced: bool
    outside: int = 0
    ids_unknown: bool = False

    def add_up(self) -> None:
        """Fill in the sums; called once, at the end of ``__init__``."""
        self.causes: dict[Cause, Sum] = {}
        self.agreed = self.ours_pusd = self.theirs_pusd = 0
        for finding in self.everything():
            ours = (finding.ours or NOTHING).pusd or 0
            theirs = ours + finding.pusd
            self.ours_pusd += ours
            self.theirs_pusd += theirs
            if finding.cause is None:
                self.agreed += 1
                continue
            under = self.causes.setdefault(finding.cause, Sum())
            under.count += 1
            under.ours_pusd += ours
            under.theirs_pusd += theirs

    @property
    def differences(self) -> int:
        """How many differ."""
        return sum(each.count for cause, each in self.causes.items() if cause is not Cause.WINDOW)

    def findings(self) -> Iterator[Finding]:
        """Those that differ, as they come from the file, then what is ours alone."""
        return (finding for finding in self.everything() if finding.cause is not None)

    @abstractmethod
    def everything(self) -> Iterator[Finding]:
        """All that is compared; each call goes over it anew."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give up what is held for it."""
