"""What a scheduler answers over HTTP: ``GET /metrics`` and ``GET /health``."""

from __future__ import annotations

import msgspec

from amaru.http1 import HttpServer, Request, ServerSettings, error_body
from amaru.ledger.scheduler import Scheduler

LIMITS = ServerSettings(max_body_bytes=1024, max_connections=100, max_buffered_bytes=1024 * 1024)
_JSON = (b"content-type", b"application/json")


class SchedulerApi:
    """Answers requests about one scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def server(self) -> HttpServer:
        """A server of this, to be started."""
        return HttpServer(self.answer, LIMITS)

    def answer(self, request: Request) -> None:
        """Answer ``request``. Health is 503 where a log does not hold, for that is for a person to look at now."""
        if request.path not in ("/metrics", "/health"):
            request.respond(404, [_JSON], error_body(404, "not_found", "There are GET /metrics and GET /health."))
        elif request.method not in ("GET", "HEAD"):
            told = error_body(405, "method_not_allowed", f"{request.path} takes GET.")
            request.respond(405, [_JSON, (b"allow", b"GET, HEAD")], told)
        elif request.path == "/metrics":
            accept = request.headers.get(b"accept", b"").decode("latin-1")
            body, kind = self._scheduler.metrics.render(accept)
            request.respond(200, [(b"content-type", kind.encode())], body)
        else:
            health = self._scheduler.health()
            request.respond(503 if health["status"] == "alarm" else 200, [_JSON], msgspec.json.encode(health))
