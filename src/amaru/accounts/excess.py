"""What offers billed beyond what was reserved for it, and what is reserved of them since.

It should never be: then an offer's settings do not say what it does. Until somebody mends them, an offer is believed as
little as its bills give reason to: one that billed more output than the caller's limit is taken to heed none, and the
most by which any bill of it went beyond is added to all that is reserved there. A process learns this for itself, and
forgets it when it ends, or when the settings of the offer are changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from amaru.accounts.estimate import Bounds, most_output_tokens, upper_nusd, upper_output_tokens
from amaru.domain import Kind, Offer, Price, Usage


class Excess(msgspec.Struct):
    """What one offer's bills have shown."""

    settings: Offer
    """As they were, but for the price."""
    answer_tokens: int = 0
    """Most output of one answer that a caller's limit, or the offer's own, should have bounded; 0: none was longer."""
    more_nusd: int = 0

    def upper_nusd(self, offer: Offer, bounds: Bounds) -> int:
        """As ``estimate.upper_nusd``, by what is known since."""
        if self.answer_tokens:
            longest = max(most_output_tokens(offer), self.answer_tokens)
            offer = msgspec.structs.replace(offer, bills_beyond_limit=True, max_output_tokens=longest)
        return upper_nusd(offer.price, bounds, offer) + self.more_nusd


class Excesses:
    """What is known of every offer that billed more than was reserved.

    Parameters
    ----------
    tell
        Called with an offer's id, and by how many nano-dollars a bill of it went beyond.
    """

    def __init__(self, tell: Callable[[str, int], None] = lambda _offer, _nusd: None) -> None:
        self.tell = tell
        self._known: dict[str, Excess] = {}

    def upper_nusd(self, offer: Offer, bounds: Bounds) -> int:
        """The most that an attempt at ``offer`` may cost, in nano-dollars."""
        known = self._known.get(offer.id)
        return upper_nusd(offer.price, bounds, offer) if known is None else known.upper_nusd(offer, bounds)

    def learn(self, offer: Offer, bounds: Bounds, usage: Usage, *, billed_nusd: int, reserved_nusd: int) -> None:
        """An attempt cost more than was reserved for it."""
        known = self._known.get(offer.id)
        if known is None:
            known = self._known[offer.id] = Excess(_settings(offer))
        if bounds.request.kind is not Kind.EMBEDDING and usage.output_tokens > upper_output_tokens(bounds, offer):
            answer_tokens = -(-(usage.output_tokens - bounds.more_output_tokens) // bounds.choices)
            known.answer_tokens = max(known.answer_tokens, answer_tokens)
        known.more_nusd += max(billed_nusd - known.upper_nusd(offer, bounds), 0)
        self.tell(offer.id, billed_nusd - reserved_nusd)

    def keep(self, offers: Iterable[Offer]) -> None:
        """Forget what is known of offers whose settings are no longer the same."""
        settings = {offer.id: _settings(offer) for offer in offers}
        self._known = {id: known for id, known in self._known.items() if settings.get(id) == known.settings}


def _settings(offer: Offer) -> Offer:
    """But for the price, which may change by its date."""
    return msgspec.structs.replace(offer, price=Price())
