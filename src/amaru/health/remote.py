"""A gateway's health, asked for over HTTP: what ``amaru health`` and ``InfrastructureConsciousness`` read.

Not hot: the standard library's client, beside the event loop where there is one. Proxies are not used, as nothing else
in amaru does.
"""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from typing import Any, TypeVar

import msgspec

from amaru.errors import HealthError
from amaru.health.report import HealthReport

TIMEOUT_S = 10.0
MAX_BYTES = 64 * 1024 * 1024

_REMEDIES = {
    401: "; give an operator's key (of the command line: in AMARU_OPERATOR_KEY, or where --key-env says)",
    403: "; this takes an operator's key",
    404: "; is it an amaru gateway, and of this version?",
}

T = TypeVar("T")
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class RemoteHealth:
    """The health endpoints of one gateway.

    Parameters
    ----------
    url
        Its address, with or without ``/v1`` at the end.
    key
        An operator's key; ``None``: none is sent.

    Raises
    ------
    HealthError
        Here and below: the URL is none, the gateway cannot be reached, or it refuses; with what to do.
    """

    def __init__(self, url: str, key: str | None, *, timeout_s: float = TIMEOUT_S) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise HealthError(
                f"{parts.hostname or 'the address'}: not a gateway's URL; write it like http://127.0.0.1:8080"
            )
        if key is not None and not (key.isascii() and key.isprintable()):
            raise HealthError("the operator's key holds a character that no header can carry")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._key = key
        self._timeout_s = timeout_s

    def report(self) -> HealthReport:
        """The report of this moment."""
        return self.get("/health/providers", HealthReport)

    def get(self, path: str, type: type[T]) -> T:
        """The answer of a GET."""
        return self._decoded(self._ask(path, None), type)

    def post(self, path: str, document: Any, type: type[T]) -> T:  # Any: JSON
        """The answer of a POST."""
        return self._decoded(self._ask(path, msgspec.json.encode(document)), type)

    def _ask(self, path: str, body: bytes | None) -> bytes:
        headers = {"accept": "application/json", "content-type": "application/json"}
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url + path, body, headers)  # noqa: S310 -- http or https, see above
        try:
            with _opener.open(request, timeout=self._timeout_s) as response:
                content: bytes = response.read(MAX_BYTES)
                return content
        except urllib.error.HTTPError as error:
            remedy = _REMEDIES.get(error.code, "")
            raise HealthError(f"{self.url} answers {error.code}: {_message(error)}{remedy}") from None
        except (urllib.error.URLError, TimeoutError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise HealthError(f"{self.url} cannot be reached: {reason}; is `amaru serve` running there?") from None
        except ValueError as error:
            raise HealthError(f"{self.url} sent no answer that can be read: {error}") from None

    def _decoded(self, content: bytes, type: type[T]) -> T:
        try:
            return msgspec.json.decode(content, type=type)
        except msgspec.DecodeError as error:
            raise HealthError(f"{self.url} sent no report that this amaru can read: {error}") from None


def _message(error: urllib.error.HTTPError) -> str:
    """What the gateway says, in its own words, or the status's."""
    try:
        said = msgspec.json.decode(error.read(MAX_BYTES))["error"]["message"]
    except (OSError, ValueError, KeyError, TypeError):
        return error.reason
    return str(said)
