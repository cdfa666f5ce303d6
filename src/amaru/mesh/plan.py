"""One configuration, made ready to serve.

A ``Plan`` is replaced whole when the configuration changes. Requests keep the plan they began with; a retired plan
closes the providers that its successor did not take over once its last request has ended.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

from amaru.accounts.keys import KeyRing
from amaru.config import Config
from amaru.config import Provider as ProviderSettings
from amaru.domain import Kind, Offer, Workload
from amaru.protocols.adapting import Adaptation
from amaru.providers.base import Provider, Timing
from amaru.providers.openai import OpenAIProvider, ProviderSpec
from amaru.providers.switched import SwitchedProvider
from amaru.providers.transport import Endpoint, endpoint_from_url
from amaru.routing.board import Board
from amaru.routing.breaker import BreakerSettings
from amaru.routing.conversation import Conversation
from amaru.routing.live import Slab
from amaru.routing.patience import PatienceSettings
from amaru.routing.policies import make_policy
from amaru.routing.policies_base import Policy
from amaru.routing.retries import RetryBudget
from amaru.routing.router import Ranking, Router
from amaru.routing.warmth import ConversationWarmth, WarmthSettings


class Plan:
    """A configuration with its board, router, providers and limits; read-only but for its count of users.

    ``policy`` ranks; left out, an untrained one of the configuration's name. ``slab`` holds the live state, where there
    is no plan before. Offers have the prices that are valid at ``at``, in Unix seconds.
    """

    def __init__(
        self,
        config: Config,
        rng: random.Random,
        previous: Plan | None = None,
        policy: Policy | None = None,
        *,
        slab: Slab | None = None,
        at: float = 0.0,
    ) -> None:
        routing = config.routing
        self.config = config
        self.keyring: KeyRing = config.key_ring()
        self.settings = config.providers()
        self.board: Board = Board(
            config.prices.offers_at(config.offers(), at),
            config.aliases,
            breaker=BreakerSettings(
                consecutive_failures=routing.breaker.consecutive_failures,
                failure_rate=routing.breaker.failure_rate,
                window_s=routing.breaker.window_s,
                cool_down_s=routing.breaker.cool_down_s,
                max_cool_down_s=routing.breaker.max_cool_down_s,
            ),
            patience={
                name: PatienceSettings(
                    adaptive=routing.adaptive_limits,
                    first_token_s=settings.first_token_ms / 1e3,
                    idle_s=settings.idle_ms / 1e3,
                    least_first_token_s=routing.least_first_token_ms / 1e3,
                    least_idle_s=routing.least_idle_ms / 1e3,
                )
                for name, settings in self.settings.items()
            },
            carry=previous.board if previous is not None else None,
            slab=slab,
            rng=rng,
        )
        self.router = Router(
            self.board, policy or make_policy(routing.policy), exploration=routing.exploration, rng=rng
        )
        self.prices_until: float = config.prices.next_change(at)
        """From then on some offer has another price, and this plan is to be replaced. Unix seconds."""
        self.retries: RetryBudget = (
            previous.retries
            if previous is not None and previous.config.routing.retry_budget == routing.retry_budget
            else self.board.slab.retries(routing.retry_budget.ratio, min_per_s=routing.retry_budget.min_per_s)
        )
        self.price_ids: dict[str, str] = {
            offer.id: config.prices.record_at(offer.id, at).id for offer in self.board.offers
        }
        """Of each offer's price, by which its charges name it."""
        self.holds_unknown = config.accounts.unknown_usage == "hold"
        """What was reserved for an answer without usage stands until it is reconciled."""
        self.deadline_s = routing.deadline_ms / 1e3
        self.max_attempts = routing.max_attempts
        self.longest_wait_s = routing.longest_wait_ms / 1e3
        self.longest_retry_after_s = routing.longest_retry_after_ms / 1e3
        sessions, lifetimes_s = config.sessions, config.cache_lifetimes_s()
        self.warmth = ConversationWarmth(
            {offer.id: (row, lifetimes_s[offer.id]) for row, offer in enumerate(self.board.offers)},
            self.board.static,
            WarmthSettings(weight=sessions.weight, first_token=sessions.first_token, shun_s=sessions.shun_s),
        )
        self.providers: dict[str, Provider] = {}
        for name, settings in self.settings.items():
            unchanged = previous is not None and previous.settings.get(name) == settings
            self.providers[name] = previous.providers[name] if previous and unchanged else open_provider(settings)
        self._limits_s = {
            name: (settings.first_token_ms / 1e3, settings.answer_ms / 1e3, settings.idle_ms / 1e3)
            for name, settings in self.settings.items()
        }
        self._users = 0
        self._successor: Plan | None = None
        self._unused = asyncio.Event()

    def timing(self, offer: Offer, started_at: float, deadline_at: float, *, input_tokens: int, alone: bool) -> Timing:
        """The limits of one attempt, none of them past the request's deadline.

        ``alone``: no other offer could take over now, so the configured limits hold; else those that the offer's own
        answers give reason to, for a prompt of ``input_tokens``.
        """
        first_token_s, answer_s, idle_s = self._limits_s[offer.provider]
        if not alone:
            board = self.board
            first_token_s, idle_s = board.limits_s(board.row_of[offer.id], input_tokens, started_at)
        first_token_at, answer_at = started_at + first_token_s, started_at + answer_s
        return Timing(  # written out, since two calls of `min` cost as much as all the rest
            first_token_at if first_token_at < deadline_at else deadline_at,
            answer_at if answer_at < deadline_at else deadline_at,
            idle_s,
            deadline_at,
        )

    def decide(
        self, workload: Workload, now_s: float, conversation: Conversation | None, excluded: Iterable[int] | None = None
    ) -> Ranking:
        """See ``Router.decide``; what ``conversation``, if any, has left in prompt caches counts in the scores."""
        router, warmth = self.router, None
        if conversation is not None:
            warmth = self.warmth.of(conversation, workload, now_s + router.wall_offset_s)
        return router.decide(workload, now_s, excluded, warmth)

    def warm(self) -> None:
        """Decide once, so that the compiled kernels are loaded before the first request."""
        for resource in self.board.resources()[:1]:
            self.router.decide(Workload(tenant="", kind=Kind.CHAT, resource=resource), 0.0)

    # ---- levers -------------------------------------------------------------------------------------------------

    def endpoint(self, provider: str, index: int) -> int:
        """Ask the provider's address of this index from now on: 0 is its ``base_url``, n the n-th of its alternates.

        Gives back the former index. Calls under way end where they began.

        Raises
        ------
        ValueError
            No such provider, or no such address.
        """
        if provider not in self.providers:
            raise ValueError(f"no provider {provider!r}; there are {', '.join(self.providers)}")
        switched = self.providers[provider]
        if isinstance(switched, SwitchedProvider):
            return switched.switch(index)
        if index != 0:
            raise ValueError(f"provider {provider!r} has no alternates; name some under providers.{provider}")
        return 0

    def adapt(self, offer: str, adaptation: Adaptation | None) -> Adaptation | None:
        """Rewrite the answers of the offer of that id as ``adaptation`` has it, ``None`` for not at all.

        Gives back the former. Answers under way keep what they began with.

        Raises
        ------
        ValueError
            No such offer.
        """
        return self.provider_of(offer).adapt(offer, adaptation)

    def provider_of(self, offer: str) -> Provider:
        """Who serves the offer of that id; raises ``ValueError`` where there is none."""
        row = self.board.row_of.get(offer)
        if row is None:
            raise ValueError(f"no offer {offer!r}")
        return self.providers[self.board.offers[row].provider]

    # ---- who uses it --------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """A request begins under this plan."""
        self._users += 1

    def let_go(self) -> None:
        """A request that began under this plan has ended."""
        self._users -= 1
        if self._users == 0 and self._successor is not None:
            self._unused.set()

    async def retire(self, successor: Plan) -> None:
        """Wait for the last request, then close the providers that ``successor`` did not take over."""
        self._successor = successor
        if self._users > 0:
            await self._unused.wait()
        for name, provider in self.providers.items():
            if successor.providers.get(name) is not provider:
                await provider.aclose()

    async def aclose(self) -> None:
        """Close every provider."""
        for provider in self.providers.values():
            await provider.aclose()


def open_provider(settings: ProviderSettings) -> Provider:
    """The provider of those settings; no connection is made yet."""
    template = Endpoint(
        scheme="https",
        host="",
        port=0,
        connect_timeout_s=settings.connect_ms / 1e3,
        max_connections=settings.max_connections,
        verify=settings.verify_tls,
        ca_file=str(settings.ca_file) if settings.ca_file is not None else None,
        transport=settings.transport,
        provider=settings.id,
    )
    places = [(settings.base_url, settings.headers)]
    places += [(alternate.base_url, alternate.headers) for alternate in settings.alternates]
    addresses = [
        OpenAIProvider(
            ProviderSpec(
                id=settings.id,
                endpoint=endpoint_from_url(base_url, template=template),
                key=settings.key,
                headers=tuple(headers.items()),
            )
        )
        for base_url, headers in places
    ]
    return SwitchedProvider(addresses) if len(addresses) > 1 else addresses[0]
