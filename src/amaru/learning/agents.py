"""Q-learning agents for programs that bring their own world: no tenants, no simulator, only states and rewards.

They learn with the table and the compiled code of the policy ``qlearning``, so what they have learned can serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

import msgspec
import numpy as np

from amaru.routing import belief_kernels as b
from amaru.routing import q_kernels as q
from amaru.routing.learned import QPolicy
from amaru.routing.policies import make_policy

PREFERENCES = ("price", "latency", "reputation", "availability")
HOPED = 1.0
"""Value of a state that nobody has been in: the most there is, so that it is tried (Sutton & Barto, 2.6)."""

_BINS = (
    len(q.LATENCY_EDGES) + 1,
    len(q.PRICE_EDGES) + 1,
    len(q.CAPACITY_EDGES) + 1,
    len(q.REPUTATION_EDGES) + 1,
    len(q.HEALTH_EDGES) + 1,
)


class State(msgspec.Struct, frozen=True, order=True):
    """What a request sees in an offer, in bins; ``State.of`` makes one from raw figures.

    Bins count from 0; the edges between them stand in ``amaru.routing.q_kernels``.
    """

    latency: Annotated[int, msgspec.Meta(ge=0, lt=_BINS[0])]
    """0: hardly slower than the fastest offer."""
    price: Annotated[int, msgspec.Meta(ge=0, lt=_BINS[1])]
    """0: hardly dearer than the cheapest offer."""
    capacity: Annotated[int, msgspec.Meta(ge=0, lt=_BINS[2])]
    """0: nearly full."""
    reputation: Annotated[int, msgspec.Meta(ge=0, lt=_BINS[3])]
    health: Annotated[int, msgspec.Meta(ge=0, lt=_BINS[4])]
    """0: most attempts failed lately."""
    preference: Annotated[int, msgspec.Meta(ge=0, lt=q.PREFERENCES)] = 0
    """Of ``PREFERENCES``, what the request cares for most."""

    def __post_init__(self) -> None:
        bounds = (*_BINS, q.PREFERENCES)
        for name, value, bound in zip(self.__struct_fields__, msgspec.structs.astuple(self), bounds, strict=True):
            if not 0 <= value < bound:
                raise ValueError(f"{name} is a bin, 0 to {bound - 1}, not {value}")

    @classmethod
    def of(
        cls,
        *,
        latency_ms: float,
        price: float,
        best_latency_ms: float,
        best_price: float,
        capacity: float = 1.0,
        reputation: float = 50.0,
        health: float = 1.0,
        preference: str = "price",
    ) -> Self:
        """The state of an offer.

        Parameters
        ----------
        latency_ms, price
            Of the offer, more than 0.
        best_latency_ms, best_price
            Lowest among the offers to choose from; prices are of one unit, whichever.
        capacity
            Free share of it, 0 to 1.
        reputation
            0 to 100.
        health
            Recent share of successes, 0 to 1.
        preference
            One of ``PREFERENCES``.

        Raises
        ------
        ValueError
            A figure or the preference is none.

        Examples
        --------
        >>> State.of(latency_ms=120, price=2.0, best_latency_ms=100, best_price=2.0, health=0.95)
        State(latency=1, price=0, capacity=3, reputation=0, health=4, preference=0)
        """
        if preference not in PREFERENCES:
            raise ValueError(f"preference is one of {', '.join(PREFERENCES)}, not {preference!r}")
        if not min(latency_ms, price, best_latency_ms, best_price) > 0.0:
            raise ValueError("latencies and prices are more than 0")
        number = q.state_at(
            PREFERENCES.index(preference),
            latency_ms / best_latency_ms,
            price / best_price,
            capacity,
            reputation,
            health,
        )
        return cls.numbered(number)

    @classmethod
    def numbered(cls, number: int) -> Self:
        """The state of a row of the table."""
        bins: list[int] = []
        for size in reversed(_BINS):
            number, place = divmod(number, size)
            bins.insert(0, place)
        latency, price, capacity, reputation, health = bins
        return cls(latency, price, capacity, reputation, health, number)

    @property
    def number(self) -> int:
        """Row of the table, 0 to ``q_kernels.N_STATES - 1``."""
        number = self.preference
        for size, place in zip(_BINS, msgspec.structs.astuple(self), strict=False):
            number = number * size + place
        return number


class RoutingAgent:
    """Chooses among providers by what states like theirs have earned, and learns.

    Parameters
    ----------
    agent_id
        Among its swarm.
    n_providers
        How many there are to choose from, each time.
    learning_rate
        Least step of an update, above 0; the first visits of a state are averaged.
    epsilon
        Probability that a choice is drawn, at the start.
    epsilon_decay
        Factor on it with everything learned, down to 0.01.
    discount
        What the value of the next choice counts, 0 (nothing) to 0.99.
    replays
        Past experiences learned again with each new one.
    seed
        Of its draws, together with ``agent_id``.

    Raises
    ------
    ValueError
        An argument is out of bounds.

    Examples
    --------
    >>> near = State.of(latency_ms=100, price=3, best_latency_ms=100, best_price=1)
    >>> cheap = State.of(latency_ms=300, price=1, best_latency_ms=100, best_price=1)
    >>> agent = RoutingAgent(0, n_providers=2, epsilon=0.0)
    >>> for _ in range(20):
    ...     choice = agent.choose([near, cheap])
    ...     agent.learn([near, cheap][choice], 0.4 if choice == 0 else 0.9)
    >>> agent.choose([near, cheap])
    1
    """

    def __init__(
        self,
        agent_id: int,
        n_providers: int,
        *,
        learning_rate: float = 0.05,
        epsilon: float = 0.2,
        epsilon_decay: float = 0.999,
        discount: float = 0.0,
        replays: int = 1,
        seed: int = 0,
    ) -> None:
        if n_providers < 1:
            raise ValueError(f"n_providers is at least 1, not {n_providers}")
        policy = make_policy(
            "qlearning",
            learning_rate=learning_rate,
            epsilon=epsilon,
            epsilon_kept=epsilon_decay,
            epsilon_least=min(epsilon, 0.01),
            discount=discount,
            replays=replays,
        )
        assert isinstance(policy, QPolicy)
        self.agent_id = agent_id
        self.n_providers = n_providers
        self.policy = policy
        """What it has learned, as the policy that can serve."""
        self._rng = np.random.default_rng([seed, agent_id])

    @property
    def epsilon(self) -> float:
        """Probability that the next choice is drawn."""
        return float(self.policy.mind.knobs[b.EPSILON])

    @epsilon.setter
    def epsilon(self, value: float) -> None:
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"epsilon is a probability, not {value}")
        self.policy.mind.knobs[b.EPSILON] = value

    def value(self, state: State) -> float:
        """The reward to expect in ``state``: between what it has earned and what is hoped for, by its visits."""
        mind = self.policy.mind
        value, visits = mind.values[state.number]
        prior = mind.settings.q_prior
        return float((visits * value + prior * HOPED) / (visits + prior))

    def choose(self, states: Sequence[State], feasible: Sequence[bool] | None = None) -> int | None:
        """The provider to use: the most valuable, the first of equals; or now and then any.

        Parameters
        ----------
        states
            Of each provider.
        feasible
            Which of them may be chosen; left out: all.

        Returns
        -------
        int
            Its index.
        None
            None is feasible.
        """
        if len(states) != self.n_providers or (feasible is not None and len(feasible) != self.n_providers):
            raise ValueError(f"there are {self.n_providers} providers: give as many states, and flags of feasibility")
        open_ = [place for place in range(self.n_providers) if feasible is None or feasible[place]]
        if not open_:
            return None
        if self._rng.random() < self.epsilon:
            return int(self._rng.choice(open_))
        return max(open_, key=lambda place: self.value(states[place]))

    def learn(self, state: State, reward: float) -> None:
        """Take in what choosing a provider in ``state`` has earned, about 0 to 1; then replay some of the past.

        Raises ValueError where the reward is not finite.
        """
        if not np.isfinite(reward):
            raise ValueError(f"a reward is finite, not {reward}")
        mind = self.policy.mind
        q.learn(state.number, float(reward), self._rng.random(), mind.values, mind.memory, mind.ring, mind.knobs)
        self.policy.outcomes += 1

    def replay(self, count: int) -> int:
        """Learn from up to ``count`` past experiences again; returns from how many."""
        mind = self.policy.mind
        held = min(int(mind.ring[q.COUNT]), q.MEMORY)
        count = min(count, held)
        discount, rate = mind.settings.discount, mind.settings.learning_rate
        for past in self._rng.integers(0, held, count) if count else ():
            state, target, after = mind.memory[past]
            if discount > 0.0:
                if after < 0:  # what came next is not known yet
                    continue
                target += discount * mind.values[int(after), q.VALUE]
            q._update(int(state), float(target), mind.values, rate, True)
        return count

    def q_table(self) -> dict[State, float]:
        """The value of each state that was visited."""
        values = self.policy.mind.values
        return {
            State.numbered(int(number)): float(values[number, q.VALUE])
            for number in np.flatnonzero(values[:, q.VISITS])
        }
