"""One POST over HTTP(S): to time-stamping authorities, to URLs that take anchors, and to webhooks.

Bounded in time and size; certificates are verified; a redirect is not followed. Proxies are those of the environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from amaru.errors import AmaruError
from amaru.telemetry.redaction import in_one_line

if TYPE_CHECKING:
    from pyreqwest.client import SyncClient
    from pyreqwest.exceptions import PyreqwestError
    from pyreqwest.response import SyncResponse

LIMIT_S = 15.0
"""From the beginning of a call to its last byte."""
MAX_ANSWER_BYTES = 256 * 1024
MAX_CA_FILE_BYTES = 4 * 1024 * 1024

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 section 5.6.2
_CREDENTIAL_STATUSES = frozenset((401, 403, 407))
_PASSING_STATUSES = frozenset((408, 425, 429))
_SECONDS = re.compile(r"[0-9]{1,9}")


class PostError(AmaruError):
    """Something was not posted, or not taken.

    Attributes
    ----------
    status
        What was answered; ``None``: nothing, or nothing that could be read.
    is_passing
        It may work in a while; else someone must change something.
    retry_after_s
        How long the answer asks to wait; ``None``: it does not say.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        is_passing: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.is_passing = is_passing
        self.retry_after_s = retry_after_s


class Poster:
    """Posts to one URL.

    Parameters
    ----------
    url
        Where to; ``http`` or ``https``. Credentials do not belong in it: it stands in messages and logs.
    headers
        Sent with each request, such as ``authorization``.
    limit_s
        Seconds that a call may take, from its beginning to the answer's last byte.
    ca_file
        PEM certificates that are trusted for ``https`` beside the usual ones.

    Raises
    ------
    PostError
        The URL, a header or the file cannot be used. No message holds a header's value.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        limit_s: float = LIMIT_S,
        ca_file: Path | None = None,
    ) -> None:
        self.url = require_url(url)
        self._headers = _sendable(headers or {})
        self._limit_s = limit_s
        self._ca_file = ca_file
        self._client = self._new_client()

    def post(
        self, body: bytes, content_type: str, *, accept: str | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Post ``body``, with ``headers`` beside those of every request; the answer's body.

        Raises
        ------
        PostError
            No answer in time, one with another status than 2xx, or one of more than ``MAX_ANSWER_BYTES``.
        """
        from pyreqwest.exceptions import PyreqwestError, RequestTimeoutError

        try:
            request = self._client.post(self.url).header("content-type", content_type).body_bytes(body)
            if accept is not None:
                request = request.header("accept", accept)
            for name, value in _sendable(headers or {}).items():
                request = request.header(name, value)
            with request.build_streamed() as response:
                answer = self._read(response)
                if not 200 <= response.status < 300:
                    raise self._refused(response.status, answer, response.headers.get("retry-after"))
                return answer
        except RequestTimeoutError:
            raise PostError(f"{self.url} gave no answer within {self._limit_s:g} s", is_passing=True) from None
        except PyreqwestError as error:
            raise PostError(f"{self.url} cannot be reached: {_cause(error)}", is_passing=True) from None

    def close(self) -> None:
        """Let the connections go."""
        self._client.close()

    def _new_client(self) -> SyncClient:
        from pyreqwest.client import SyncClientBuilder
        from pyreqwest.exceptions import PyreqwestError

        builder = SyncClientBuilder().timeout(timedelta(seconds=self._limit_s)).follow_redirects(False)
        builder = builder.default_headers({"user-agent": "amaru", **self._headers})
        try:
            if self._ca_file is not None:
                builder = builder.add_root_certificate_pem(_read_ca_file(self._ca_file))
            return builder.build()
        except PyreqwestError as error:
            message = f"{self._ca_file or 'TLS'} cannot be used for {self.url}: {_cause(error)}"
            raise PostError(message) from None

    def _read(self, response: SyncResponse) -> bytes:
        parts: list[bytes] = []
        held = 0
        while (part := response.body_reader.read_chunk()) is not None:
            data = bytes(part)
            held += len(data)
            if held > MAX_ANSWER_BYTES:
                message = f"{self.url} sent an answer of more than {MAX_ANSWER_BYTES:,} bytes"
                raise PostError(message)
            parts.append(data)
        return b"".join(parts)

    def _refused(self, status: int, answer: bytes, retry_after: str | None) -> PostError:
        is_passing = status >= 500 or status in _PASSING_STATUSES
        what = "" if is_passing else "; check the URL"
        if status in _CREDENTIAL_STATUSES:
            what = "; check the credentials that are sent to it"
        words = in_one_line(answer.decode("utf-8", "replace"))
        return PostError(
            f"{self.url} answered with status {status}{f' ({words})' if words else ''}{what}",
            status=status,
            is_passing=is_passing,
            retry_after_s=float(retry_after) if retry_after and _SECONDS.fullmatch(retry_after) else None,
        )


def require_url(url: str) -> str:
    """``url``, where it is one that can be posted to.

    Raises
    ------
    PostError
        It is not; the message does not repeat credentials.
    """
    from pyreqwest.http import Url

    try:
        parts = urlsplit(url)
        Url(url)  # which knows hosts that cannot be
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        whose = parts.hostname
    except ValueError:
        usable, whose = False, None
    if not usable:
        about = f"the URL of {in_one_line(whose, 100)}" if whose else "the URL"
        message = f"{about} cannot be posted to; write it like https://host.example.org/path"
        raise PostError(message)
    if parts.username is not None or parts.password is not None:
        message = f"the URL of {whose} holds credentials; send them in a header, from the environment or a file"
        raise PostError(message)
    return url


def _sendable(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise PostError(f"{in_one_line(name, 60)!r} is no header's name")
        if not (value.isascii() and value.isprintable()):
            message = f"the header {name} holds a character that cannot be sent"
            raise PostError(message)
    return dict(headers)


def _read_ca_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CA_FILE_BYTES + 1)
    except OSError as error:
        raise PostError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > MAX_CA_FILE_BYTES or b"-----BEGIN CERTIFICATE-----" not in content:
        raise PostError(f"{path}: holds no PEM certificates")
    return content


def _cause(error: PyreqwestError) -> str:
    """The innermost reason, which is the one that says what to mend."""
    details = getattr(error, "details", None)
    causes = details.get("causes") if isinstance(details, dict) else None
    return in_one_line(causes[-1]["message"] if causes else error.message) or type(error).__name__
