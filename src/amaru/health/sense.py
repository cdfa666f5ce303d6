"""Signatures, patterns and predictions over one set of offers: what senses a mesh, or whatever else is watched."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from amaru.domain import GLOBAL_REGION, Offer
from amaru.health.features import COHERENCE
from amaru.health.observation import Observation
from amaru.health.pattern_types import InfrastructurePattern, PatternSettings, Traits
from amaru.health.patterns import Patterns
from amaru.health.report import HealthReport, report_on
from amaru.health.row_kernels import Floats
from amaru.health.signature import AdapterHealthSignature, Signatures

Predictor = Callable[[Floats], float]
"""Features of an offer (``features``) → probability that it fails hard within a minute."""

DOUBTFUL = 0.4
"""Coherence below which an offer's answers are doubted."""

_SIZE = re.compile(r"\d+(\.\d+)?([bmkt]|x\d+b?)?")
_VERSION = re.compile(r"v?(\d+)(\.\d+)*[a-z]?")


class Looked(NamedTuple):
    """What one look found."""

    patterns: list[InfrastructurePattern]
    """Begun, changed or ended since the last look."""
    risks: dict[str, float]
    """By offer: probability that its next answer is of no use, be it that a hard failure is foreseen, or that its
    answers have ceased to make sense."""
    doubts: Mapping[str, float] = MappingProxyType({})
    """By offer: the second of the two alone, where it is more than 0."""


class Sense:
    """What is known of the health of some offers.

    Parameters
    ----------
    offers
        What is known of each beforehand.
    predict
        Foresees failures; left out, nothing is foreseen.
    """

    def __init__(
        self,
        offers: Sequence[Traits],
        *,
        predict: Predictor | None = None,
        settings: PatternSettings | None = None,
    ) -> None:
        self.signatures = Signatures()
        self.patterns = Patterns(settings or PatternSettings(), offers)
        self.predict = predict
        self._offers = {one.offer: one.provider for one in offers}

    @property
    def offers(self) -> Mapping[str, str]:
        """Offer → its provider."""
        return self._offers

    def set_offers(self, offers: Sequence[Traits]) -> None:
        """From now on these exist; what is known of those that stay is kept."""
        self._offers = {one.offer: one.provider for one in offers}
        self.patterns.set_offers(offers)
        self.signatures.keep(self._offers)

    def observe(self, observation: Observation) -> None:
        """Take in one attempt."""
        if observation.offer in self._offers:
            self.signatures.observe(observation)
            self.patterns.observe(observation)

    def look(self, now: float) -> Looked:
        """Look for patterns, and ahead. About once a second."""
        risks: dict[str, float] = {}
        doubts: dict[str, float] = {}
        for offer in self.signatures.offers:
            if offer in self._offers:
                row = self.signatures.features(offer, now)
                risk = 0.0 if self.predict is None else self.predict(row)
                self.signatures.predicted(offer, risk)
                doubt = doubt_of(row)
                risks[offer] = max(risk, doubt)
                if doubt > 0.0:
                    doubts[offer] = doubt
        return Looked(self.patterns.look(now), risks, doubts)

    def states(self) -> dict[str, bytes]:
        """All that is known, by part, for ``load`` after a restart."""
        return {"signatures": self.signatures.state(), "patterns": self.patterns.state()}

    def load(self, parts: Mapping[str, bytes]) -> list[str]:
        """Go on from states that were kept; gives back why a part cannot be used, which begins anew then."""
        notes = []
        for part, load in (("signatures", self.signatures.load), ("patterns", self.patterns.load)):
            if part in parts:
                try:
                    load(parts[part])
                except ValueError as error:
                    notes.append(f"{part} begin anew: {error}")
        self.signatures.keep(self._offers)
        return notes

    def view(self, offer: str, now: float) -> AdapterHealthSignature:
        """An offer's signature, with its provider's name also where nothing was ever observed."""
        view = self.signatures.view(offer, now)
        if view.provider:
            return view
        fields = {name: getattr(view, name) for name in view.__struct_fields__}
        return AdapterHealthSignature(**{**fields, "provider": self._offers[offer]})

    def report(self, now: float, **rest: Any) -> HealthReport:  # Any: as report_on names them
        """What ``report_on`` makes of the signatures and patterns of this moment, and of ``rest``."""
        views: dict[str, list[AdapterHealthSignature]] = {}
        for offer, provider in self._offers.items():
            views.setdefault(provider, []).append(self.view(offer, now))
        over = {provider: self.signatures.provider(provider, now) for provider in views}
        return report_on(views, over, at=now, patterns=list(self.patterns.active.values()), **rest)


def doubt_of(features: Floats) -> float:
    """How far an offer's answers are doubted, 0 to 1: its lost coherence.

    Answers without errors that make no sense are worth no more than failures, and no pattern need be told to see it.
    """
    coherence = float(features[COHERENCE])
    return 0.0 if coherence >= DOUBTFUL else 1.0 - coherence


def traits_of(offer: Offer, labels: Mapping[str, str]) -> Traits:
    """What an offer may share with others: its regions, the family of its model, and the operator's labels."""
    return Traits(
        offer=offer.id,
        provider=offer.provider,
        resource=offer.resource,
        regions=tuple(region for region in offer.regions if region != GLOBAL_REGION),
        model=family_of(offer.model),
        labels=tuple(f"{kind}:{name}" for kind, name in labels.items()),
    )


def family_of(model: str) -> str:
    """The family of a model's name: its words up to the first version, or size.

    >>> [family_of(name) for name in ("meta-llama/Llama-3.1-70B-Instruct", "gpt-4o-mini", "claude-3-5-sonnet")]
    ['llama-3', 'gpt-4', 'claude-3']
    >>> family_of("openai/gpt-oss-120b"), family_of("mistral-large-latest")
    ('gpt-oss', 'mistral-large')
    """
    words: list[str] = []
    for word in re.split(r"[-_ :@]+", model.rsplit("/", 1)[-1].lower()):
        version = _VERSION.fullmatch(word)
        if words and version is not None and not word.endswith(("b", "m", "k", "t")):
            return "-".join([*words, version[1]])
        if _SIZE.fullmatch(word) or word in ("latest", "preview", "instruct", "chat"):
            break
        words.append(word)
    return "-".join(words)
