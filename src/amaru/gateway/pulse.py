"""Signs of life in a stream that is silent for good reason: its answer is held back, or begun anew unseen."""

from __future__ import annotations

import asyncio

from amaru.http1 import Request

EVERY_S = 14.0
"""No silence is longer than twice this: some load balancers give up on it after 30 s, proxies after a minute (nginx's
``proxy_read_timeout``)."""
COMMENT = b": amaru is waiting for the next piece\n\n"


class Pulse:
    """Sends a comment whenever nothing was written for ``every_s`` to ``2 * every_s`` seconds.

    Clients skip comments (WHATWG HTML, section 9.2.7). Set ``alive`` after each write; ``stop`` it at the end. The
    answer's head goes out with the first sign of life: until then a failure can still be told by its status.
    """

    __slots__ = ("_every_s", "_head", "_loop", "_request", "_timer", "alive")

    def __init__(self, request: Request, head: list[tuple[bytes, bytes]], every_s: float = EVERY_S) -> None:
        self.alive = True
        self._request = request
        self._head = head
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(every_s, self._beat)

    def stop(self) -> None:
        """No more signs of life."""
        self._timer.cancel()

    def _beat(self) -> None:
        request = self._request
        if request.settled:
            return
        # A caller who does not read what is there needs no sign of life.
        if not self.alive and not request.connection.congested:
            if not request.started:
                request.start(200, self._head)
            request.write_nowait(COMMENT)
        self.alive = False
        self._timer = self._loop.call_later(self._every_s, self._beat)
