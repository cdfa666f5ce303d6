"""What the policies of machines have learned, merged: each machine tells its own sums, and takes in those of others.

Sums are keyed by origin and epoch and replaced on re-receipt (``routing.evidence``), so any split of what was seen over
machines comes to what one machine that saw it all would believe. A table of Q-learning cannot be merged so, and is not.
"""

from __future__ import annotations

import re
import secrets
from collections import deque
from typing import TYPE_CHECKING

from amaru.mesh.sharing_words import MOST_BYTES, evidence_of, learned_of
from amaru.routing.evidence import Evidence
from amaru.routing.hearsay import Hearsay
from amaru.routing.learned import BeliefPolicy, half_lives_of
from amaru.routing.policies_base import Policy
from amaru.storage.redis import RedisLink
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from amaru.mesh.mesh import Mesh

KEEP_S = 2 * 86_400.0
"""What a machine learned counts for others as long after it was heard of last."""
AGAIN_S = 3600.0
"""It is told again after so long, also where nothing was learned since."""
MOST_ORIGINS = 64
"""The ones told last count."""

_ORIGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[0-9a-f]{16}")

_Told = tuple[str, float, int]

log = get_logger("mesh")


class SharedLearning:
    """What one machine's policy tells and takes in. Belongs to the event loop's thread.

    Parameters
    ----------
    name
        Of this machine; its origins begin with it.
    key
        What all keys in Redis begin with.
    """

    def __init__(self, mesh: Mesh, name: str, key: str) -> None:
        self.junk = 0
        """What of others could not be read, or cannot be true."""
        self.unlike = 0
        """What of others fades differently, and cannot be merged."""
        self._mesh = mesh
        self._name = name
        self._key = key
        self._told: _Told | None = None  # origin, epoch and outcomes of what was told last
        self._told_at = 0.0  # of Redis' clock
        self._scores: deque[float] = deque(maxlen=64)  # under which it was told, or may have been
        self._known: dict[bytes, float] = {}  # by origin: its score in the index when it was taken in last
        self._taking: dict[str, Evidence] = {}
        self._forget: set[str] = set()

    @property
    def origins(self) -> int:
        """Whose learning counts here, its own included."""
        policy = self._mesh.learner.policy
        return 1 + len(policy.others) if isinstance(policy, BeliefPolicy) else 0

    @property
    def told(self) -> bool:
        """Whether others can have what was learned here."""
        return self._told is not None

    def follow(self) -> None:
        """Offers changed: what others learned of new ones is wanted too."""
        self._known.clear()

    async def exchange(self, link: RedisLink, now: float, ahead_s: float, hearsay: Hearsay) -> None:
        """Tell what was learned, and take in what others learned; ``now`` and ``ahead_s`` are of Redis' clock.

        Raises StorageError where Redis is away.
        """
        learner = self._mesh.learner
        if not isinstance(learner.policy, BeliefPolicy) or not learner.exchange(self._settle):
            return
        origin, telling, mine = self._to_tell(learner.policy, now, ahead_s, hearsay)
        before = list(self._scores)
        found, own = await link.ask(lambda redis: self._meet(redis, origin, mine, now))
        if mine is not None:
            self._told, self._told_at = telling, now
        elif own is None:  # that Redis has lost it: tell it again
            self._told = None
        if own is not None and before and own not in before:
            self._part(origin)
        if isinstance(learner.policy, BeliefPolicy):
            await self._take_in(link, found, ahead_s, hearsay)

    # ---- telling ------------------------------------------------------------------------------------------------

    def _settle(self, policy: Policy) -> bool:
        """Have the policy sum under an origin of this machine's; True where that changed it."""
        assert isinstance(policy, BeliefPolicy)
        if not _ORIGIN.fullmatch(policy.origin):
            # What came with an artifact all machines have: it is nobody's own.
            self._begin(policy, anew=bool(self._mesh.learner.used.artifact))
            return True
        told = self._told
        if told is not None and told[:2] == (policy.origin, policy.epoch) and policy.outcomes < told[2]:
            policy.begin_as(policy.origin, self._mesh.wall(), anew=False)  # it has forgotten
            return True
        return False

    def _begin(self, policy: BeliefPolicy, *, anew: bool) -> None:
        policy.begin_as(f"{self._name}/{secrets.token_hex(8)}", self._mesh.wall(), anew=anew)
        self._told = None
        self._scores.clear()

    def _to_tell(
        self, policy: BeliefPolicy, now: float, ahead_s: float, hearsay: Hearsay
    ) -> tuple[str, _Told, bytes | None]:
        """Its origin, what that has learned, and the same to be sent; None: others have it."""
        told = policy.origin, policy.epoch, policy.outcomes
        if told == self._told and now - self._told_at < AGAIN_S:
            return policy.origin, told, None
        names = {offer.id: name for offer, name in zip(hearsay.board.offers, hearsay.names, strict=True)}
        mine = learned_of(policy.evidence(), names, ahead_s)
        if len(mine) > MOST_BYTES:
            return policy.origin, told, None
        return policy.origin, told, mine

    async def _meet(
        self, redis: Redis, origin: str, mine: bytes | None, now: float
    ) -> tuple[dict[bytes, float], float | None]:
        """Which origins there are, and when each told last; when this one did; and tell."""
        index = f"{self._key}:origins"
        async with redis.pipeline(transaction=False) as pipe:
            pipe.zscore(index, origin)
            pipe.zrevrangebyscore(index, "+inf", now - KEEP_S, 0, MOST_ORIGINS + 1, withscores=True)
            if mine is not None:
                self._scores.append(now)
                pipe.set(f"{self._key}:learned:{origin}", mine, ex=int(KEEP_S))
                pipe.zadd(index, {origin: now})
                pipe.zremrangebyscore(index, "-inf", now - KEEP_S)
                pipe.expire(index, int(KEEP_S))
            own, found, *_ = await pipe.execute()
        return {member: float(score) for member, score in found}, None if own is None else float(own)

    def _part(self, origin: str) -> None:
        """Another machine tells under this one's origin, since it began from a copy of its data: begin anew."""
        policy = self._mesh.learner.policy
        if isinstance(policy, BeliefPolicy) and policy.origin == origin:
            log.warning("origin_taken", origin=origin, effect="this machine learns under another from now on")
            self._begin(policy, anew=True)

    # ---- taking in ----------------------------------------------------------------------------------------------

    async def _take_in(self, link: RedisLink, found: dict[bytes, float], ahead_s: float, hearsay: Hearsay) -> None:
        policy = self._mesh.learner.policy
        assert isinstance(policy, BeliefPolicy)
        found.pop(policy.origin.encode(), None)
        news = [origin for origin, score in found.items() if self._known.get(origin) != score]
        told = await link.ask(lambda redis: self._get(redis, news)) if news else []
        ids = {name: offer.id for offer, name in zip(hearsay.board.offers, hearsay.names, strict=True)}
        lives = half_lives_of(policy.mind.settings)
        for origin, data in zip(news, told, strict=True):
            try:
                evidence = evidence_of(data, origin.decode(), ids, ahead_s, self._mesh.wall())
            except ValueError:
                self.junk += 1
                continue
            finally:
                self._known[origin] = found[origin]
            if evidence.half_lives_s != lives:
                if not self.unlike:
                    log.warning(
                        "learning_not_shared", origin=evidence.origin, remedy="give all the same policy_settings"
                    )
                self.unlike += 1
            elif (evidence.origin, evidence.epoch) != (policy.origin, policy.epoch):
                self._taking[evidence.origin] = evidence
        self._known = {origin: score for origin, score in self._known.items() if origin in found}
        self._forget = {
            one.origin
            for one in policy.others
            if _ORIGIN.fullmatch(one.origin)
            and one.origin.encode() not in found
            and (len(policy.others) > MOST_ORIGINS or _last_at(one) < self._mesh.wall() - KEEP_S)
        }
        if self._taking or self._forget:
            self._mesh.learner.exchange(self._receive)  # else with the next round

    async def _get(self, redis: Redis, origins: list[bytes]) -> list[bytes]:
        async with redis.pipeline(transaction=False) as pipe:
            for origin in origins:
                pipe.getrange(f"{self._key}:learned:".encode() + origin, 0, MOST_BYTES)
            return list(await pipe.execute())

    def _receive(self, policy: Policy) -> bool:
        taking, self._taking = self._taking, {}
        if not isinstance(policy, BeliefPolicy):
            return False
        try:
            policy.receive(*taking.values(), forget=self._forget)
        except ValueError:  # of one of them: the others are good
            return sum(self._receive_one(policy, one) for one in taking.values()) > 0
        return True

    def _receive_one(self, policy: BeliefPolicy, evidence: Evidence) -> bool:
        try:
            policy.receive(evidence, forget=self._forget)
        except ValueError as error:
            self.junk += 1
            log.warning("learning_not_shared", reason=str(error))
            return False
        return True


def _last_at(evidence: Evidence) -> float:
    return max((slot.at for slot in evidence.slots.values()), default=0.0)
