"""The health of an infrastructure from Python: what ``amaru health`` shows, over the same objects.

What can be watched:

- a ``Mesh`` of this process: its own sensing, with all that it remembers and does;
- the URL of a gateway, with an operator's key;
- a mapping from a name to an ``Adapter``, which is an offer and the provider that serves it, or the pair of them. These
  are asked with tiny requests, one every ``every_s`` each; their answers tell how they fare, and they are billed as any
  other.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from amaru.domain import Offer
from amaru.errors import Failure, HealthError
from amaru.health.observation import Observation
from amaru.health.prediction import Prediction
from amaru.health.probe import REQUESTS, ask, kind_of
from amaru.health.remote import RemoteHealth
from amaru.health.report import HealthReport
from amaru.health.sample import hash_of, sample_of
from amaru.health.sense import Sense, traits_of
from amaru.protocols.prompts import prompt_of
from amaru.providers.base import Provider, StreamReply, WholeReply


class Adapter(msgspec.Struct, frozen=True):
    """An offer, and the provider that serves it."""

    offer: Offer
    provider: Provider


class Reporting(Protocol):
    """What gives a report of its own."""

    async def report(self) -> HealthReport: ...


class Sensed(Protocol):
    """What is watched already; a ``Mesh`` is."""

    @property
    def sensing(self) -> Reporting: ...


Adapters = Sensed | str | Mapping[str, Adapter | tuple[Offer, Provider]]


class InfrastructureConsciousness:
    """Watches an infrastructure, and reports on it.

    Parameters
    ----------
    key
        An operator's key, for a gateway's URL.
    every_s
        Between two requests to the same adapter, where these are watched by asking.
    wall
        Unix seconds.

    Examples
    --------
    >>> async def show(mesh):
    ...     watching = InfrastructureConsciousness()
    ...     await watching.start_monitoring(mesh)
    ...     report = await watching.generate_consciousness_report()
    ...     print(report.status, [issue.why for issue in report.predicted])
    """

    def __init__(self, *, key: str | None = None, every_s: float = 10.0, wall: Callable[[], float] = time.time) -> None:
        if not every_s > 0.0:
            raise ValueError(f"every_s is more than 0, not {every_s}")
        self._key = key
        self._every_s = every_s
        self._wall = wall
        self._salt = secrets.token_bytes(32)
        self._source: Reporting | None = None
        self._task: asyncio.Task[None] | None = None

    async def start_monitoring(self, adapters: Adapters) -> None:
        """Watch ``adapters`` from now on, in place of what was watched before.

        Raises
        ------
        HealthError
            The URL is none; the gateway cannot be reached, or refuses the key.
        ValueError
            An adapter whose kind of work cannot be asked for.
        """
        await self.stop_monitoring()
        if isinstance(adapters, str):
            remote = _Remote(RemoteHealth(adapters, self._key))
            await remote.report()
            self._source = remote
        elif isinstance(adapters, Mapping):
            asked = _Asked(adapters, self._salt, self._wall)
            await asked.round()
            self._source = asked
            self._task = asyncio.get_running_loop().create_task(asked.run(self._every_s))
        else:
            self._source = adapters.sensing

    async def generate_consciousness_report(self) -> HealthReport:
        """Each provider with status, coherence, stability, failure probability, trend, errors and what to do; patterns
        under way, what is foreseen, and what it means.

        Raises
        ------
        HealthError
            Nothing is watched yet, or the gateway cannot be asked now.
        """
        if self._source is None:
            raise HealthError("nothing is watched yet: await start_monitoring(...) first")
        return await self._source.report()

    async def stop_monitoring(self) -> None:
        """Watch nothing."""
        self._source = None
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def __aenter__(self) -> InfrastructureConsciousness:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_monitoring()


class _Remote:
    """A gateway elsewhere."""

    def __init__(self, remote: RemoteHealth) -> None:
        self._remote = remote

    async def report(self) -> HealthReport:
        return await asyncio.to_thread(self._remote.report)


class _Asked:
    """Adapters that are asked one by one."""

    def __init__(
        self,
        adapters: Mapping[str, Adapter | tuple[Offer, Provider]],
        salt: bytes,
        wall: Callable[[], float],
    ) -> None:
        self._adapters = {
            name: adapter if isinstance(adapter, Adapter) else Adapter(*adapter) for name, adapter in adapters.items()
        }
        for name, adapter in self._adapters.items():
            if kind_of(adapter.offer) is None:
                raise ValueError(f"{name}: its kinds of work ({', '.join(adapter.offer.kinds)}) cannot be asked for")
        traits = [
            msgspec.structs.replace(traits_of(adapter.offer, {}), offer=name)
            for name, adapter in self._adapters.items()
        ]
        self._sense = Sense(traits, predict=Prediction().predict)
        self._salt = salt
        self._wall = wall
        self._observed = 0

    async def report(self) -> HealthReport:
        now = self._wall()
        self._sense.look(now)
        return self._sense.report(now, observed=self._observed)

    async def run(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            await self.round()

    async def round(self) -> None:
        """Ask each once."""
        for told in await asyncio.gather(*(self._ask(name, adapter) for name, adapter in self._adapters.items())):
            self._observed += 1
            self._sense.observe(told)
        self._sense.look(self._wall())

    async def _ask(self, name: str, adapter: Adapter) -> Observation:
        offer, loop = adapter.offer, asyncio.get_running_loop()
        kind = kind_of(offer)
        assert kind is not None
        request, started = REQUESTS[kind], loop.time()
        answer = await ask(offer, adapter.provider, request, started)
        latency_ms = (loop.time() - started) * 1e3
        told = Observation(
            offer=name, provider=offer.provider, at=self._wall(), ok=True, latency_ms=latency_ms, status=200,
            input_tokens=request.input_tokens_estimate, kind=kind,
        )  # fmt: skip
        if isinstance(answer, Failure):
            return msgspec.structs.replace(told, ok=False, failure=answer.kind, status=answer.status)
        return self._answered(told, answer)

    def _answered(self, told: Observation, answer: WholeReply | StreamReply) -> Observation:
        facts, request = answer.facts, REQUESTS[told.kind]
        data, whole = answer.sample()
        if isinstance(answer, StreamReply):  # none was asked for
            answer.close()
        prompt = prompt_of(request)
        sample = sample_of(
            told.kind, data, facts.output_text, self._salt,
            hash_of(prompt, self._salt) if isinstance(prompt, str) else 0, whole=whole,
        )  # fmt: skip
        return msgspec.structs.replace(
            told,
            output_chars=facts.output_chars,
            output_tokens=None if facts.usage is None else facts.usage.output_tokens,
            finish_reason=facts.finish_reasons[0] if facts.finish_reasons else None,
            sample=sample,
        )
