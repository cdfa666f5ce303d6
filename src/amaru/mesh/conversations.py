"""Short-term memory of conversations: recalled once as a request begins, added to once it has ended.

It lies in memory that the workers of a machine share and, where ``sharing.redis_url`` is set, in Redis for all
machines. Nothing of a text is in it, nor a conversation's name (``routing.conversation``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from amaru.config import Config, SessionsSettings
from amaru.domain import Attempt
from amaru.errors import Failure
from amaru.mesh.call import Call
from amaru.mesh.conversations_redis import RemoteConversations
from amaru.routing.conversation import Conversation, Failed, Turn, after, key_of, mark_of
from amaru.routing.conversation_table import ConversationTable
from amaru.routing.reactions import Health, reaction_to
from amaru.storage.redis import RedisLink
from amaru.telemetry.logs import get_logger

if TYPE_CHECKING:
    from amaru.mesh.company import Company
    from amaru.mesh.execution import Execution
    from amaru.mesh.mesh import Mesh

log = get_logger("mesh")


class Conversations:
    """What is remembered. Belongs to the event loop's thread.

    Parameters
    ----------
    table
        Of this machine.
    salt
        Of the keys. With ``remote``, all machines come to use the one that lies there.
    wall
        Unix seconds.
    count
        Told how each recall went, in one bounded word: ``known``, ``new``; with ``remote`` also ``late`` and ``alone``,
        where Redis did not answer in time and was away; and of each change that other machines will not see:
        ``dropped``.
    remote
        What all machines remember; left out, there are none.
    """

    def __init__(
        self,
        table: ConversationTable,
        salt: bytes,
        settings: SessionsSettings,
        *,
        wall: Callable[[], float],
        count: Callable[[str], None],
        remote: RemoteConversations | None = None,
    ) -> None:
        self.settings = settings
        self.remote = remote
        self._table = table
        self._salt = salt
        self._wall = wall
        self._count = count

    @property
    def salt(self) -> bytes:
        """Of all hashes that stand for a conversation's name."""
        return self._salt if self.remote is None else self.remote.salt

    async def start(self) -> None:
        """Agree on the salt with other machines, where there are some; a second at most."""
        if self.remote is not None:
            await self.remote.start()

    async def aclose(self) -> None:
        """Hand over what other machines are still to be told."""
        if self.remote is not None:
            await self.remote.aclose()

    async def recall(self, call: Call) -> Call:
        """The call with what is remembered of its conversation. Never raises, and waits no longer than ``redis_ms``."""
        if call.session is None:
            return call
        key, found = key_of(self.salt, call.tenant.id, call.session), None
        try:
            found, how = await self._recall(key)
            self._count(how)
        except Exception as error:  # whatever is the matter, the request goes on
            log.error("conversation_not_recalled", error=type(error).__name__, exc_info=error)
        return msgspec.structs.replace(call, conversation_key=key, conversation=found)

    async def look_up(self, tenant: str, session: str) -> Conversation | None:
        """What is remembered of a tenant's conversation of that name, for people."""
        found, _ = await self._recall(key_of(self.salt, tenant, session))
        return found

    async def _recall(self, key: bytes) -> tuple[Conversation | None, str]:
        """What is remembered, and how that went; see ``count``."""
        found, remote = self._valid(self._table.get(key)), self.remote
        if remote is not None:
            if not remote.up:
                return found, "alone"
            try:
                async with asyncio.timeout(self.settings.redis_ms / 1e3):
                    found = later(found, self._valid(await remote.get(key)))
            except TimeoutError:
                return found, "late"
            except ConnectionError:
                return found, "alone"
        return found, "new" if found is None else "known"

    def _valid(self, conversation: Conversation | None) -> Conversation | None:
        if conversation is None or conversation.touched_at + self.settings.ttl_s < self._wall():
            return None
        return conversation

    def ended(self, execution: Execution) -> None:
        """Remember what a settled execution of a conversation came to. Never raises, and never waits."""
        call = execution.call
        try:
            turn = turn_of(execution, self._wall())
            if turn.offer is None and not turn.failed:  # it says nothing of any offer
                return
            conversation = self._table.change(
                call.conversation_key, lambda now: after(later(self._valid(now), call.conversation), turn)
            )
            remote = self.remote
            if remote is not None and not remote.put(call.conversation_key, conversation, self.settings.ttl_s):
                self._count("dropped")
        except Exception as error:  # the answer is out
            log.error("conversation_lost", error=type(error).__name__, exc_info=error)


def conversations_of(mesh: Mesh, config: Config, company: Company | None) -> Conversations:
    """The memory of a worker, as ``config`` has it. Raises StorageError where redis-py is needed and missing."""
    sharing, remote = config.sharing, None
    if sharing.redis_url is not None:
        link = RedisLink(sharing.redis_url, purpose="conversations")
        remote = RemoteConversations(link, sharing.prefix, mesh.salt, wall=mesh.wall)
    return Conversations(
        ConversationTable() if company is None else company.memory.conversations,
        mesh.salt,
        config.sessions,
        wall=mesh.wall,
        count=mesh.metrics.observe_conversation,
        remote=remote,
    )


def later(one: Conversation | None, other: Conversation | None) -> Conversation | None:
    """Whichever of the two memories of a conversation knows more turns, or the later ones."""
    if one is None or other is None:
        return one or other
    return other if (other.touched_at, other.turns) > (one.touched_at, one.turns) else one


def turn_of(execution: Execution, at: float) -> Turn:
    """What is remembered of a settled execution; ``at`` is its end, in Unix seconds."""
    attempts, usage = execution.attempts, execution.usage
    answered = execution.offer if execution.ok else None
    prompt_tokens = execution.workload.input_tokens if usage is None else usage.input_tokens
    return Turn(
        at=at,
        cost_usd=sum(attempt.cost_usd for attempt in attempts),
        offer=None if answered is None else mark_of(answered),
        prompt_tokens=prompt_tokens,
        cached_tokens=0 if usage is None else usage.cached_input_tokens,
        failed=tuple(
            Failed(mark_of(attempt.offer), attempt.failure, at)
            for attempt in attempts
            if attempt.failure is not None and _is_its_fault(attempt)
        ),
    )


def _is_its_fault(attempt: Attempt) -> bool:
    """Neither the request was at fault, nor its own deadline."""
    assert attempt.failure is not None
    return not attempt.out_of_time and reaction_to(Failure(attempt.failure, "")).health is not Health.HEALTHY
