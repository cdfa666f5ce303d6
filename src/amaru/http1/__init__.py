"""The HTTP/1.1 server that the gateway and the simulated providers share; and ``posting``, for one POST."""

from amaru.http1.asgi import Lifespan, asgi_handler
from amaru.http1.listening import listen
from amaru.http1.request import Request
from amaru.http1.server import Handler, HttpServer
from amaru.http1.settings import ListenError, ServerSettings
from amaru.http1.wire import Block, error_body

__all__ = [
    "Block",
    "Handler",
    "HttpServer",
    "Lifespan",
    "ListenError",
    "Request",
    "ServerSettings",
    "asgi_handler",
    "error_body",
    "listen",
]
