"""One POST over HTTP(S), for time-stamping authorities and for URLs that take anchors.

Bounded in time and size; certificates are verified; a redirect is not followed. Proxies are those of the environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from amaru.ledger.troubles import AnchorError, Trouble, in_one_line

if TYPE_CHECKING:
    from pyreqwest.client import SyncClient
    from pyreqwest.exceptions import PyreqwestError
    from pyreqwest.response import SyncResponse

LIMIT_S = 15.0
"""From the beginning of a call to its last byte."""
MAX_ANSWER_BYTES = 256 * 1024
MAX_CA_FILE_BYTES = 4 * 1024 * 1024

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 section 5.6.2
_REFUSED_STATUSES = frozenset((401, 403, 407))
_BUSY_STATUSES = frozenset((408, 425, 429))


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
    AnchorError
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

    def post(self, body: bytes, content_type: str, *, accept: str | None = None) -> bytes:
        """Post ``body``; the answer's body.

        Raises
        ------
        AnchorError
            No answer in time, one with another status than 2xx, or one of more than ``MAX_ANSWER_BYTES``.
        """
        from pyreqwest.exceptions import PyreqwestError, RequestTimeoutError

        try:
            request = self._client.post(self.url).header("content-type", content_type).body_bytes(body)
            if accept is not None:
                request = request.header("accept", accept)
            with request.build_streamed() as response:
                answer = self._read(response)
                if not 200 <= response.status < 300:
                    raise self._refused(response.status, answer)
                return answer
        except RequestTimeoutError:
            raise AnchorError(f"{self.url} gave no answer within {self._limit_s:g} s", Trouble.NETWORK) from None
        except PyreqwestError as error:
            raise AnchorError(f"{self.url} cannot be reached: {_cause(error)}", Trouble.NETWORK) from None

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
            raise AnchorError(message, Trouble.VALIDATION) from None

    def _read(self, response: SyncResponse) -> bytes:
        parts: list[bytes] = []
        held = 0
        while (part := response.body_reader.read_chunk()) is not None:
            data = bytes(part)
            held += len(data)
            if held > MAX_ANSWER_BYTES:
                message = f"{self.url} sent an answer of more than {MAX_ANSWER_BYTES:,} bytes"
                raise AnchorError(message, Trouble.VALIDATION)
            parts.append(data)
        return b"".join(parts)

    def _refused(self, status: int, answer: bytes) -> AnchorError:
        if status in _REFUSED_STATUSES:
            trouble, what = Trouble.AUTHENTICATION, "; check the credentials that are sent to it"
        elif status >= 500 or status in _BUSY_STATUSES:
            trouble, what = Trouble.NETWORK, ""
        else:
            trouble, what = Trouble.VALIDATION, "; check the URL"
        words = in_one_line(answer.decode("utf-8", "replace"))
        return AnchorError(f"{self.url} answered with status {status}{f' ({words})' if words else ''}{what}", trouble)


def require_url(url: str) -> str:
    """``url``, where it is one that can be posted to.

    Raises
    ------
    AnchorError
        It is not; the message does not repeat credentials.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        whose = parts.hostname
    except ValueError:
        usable, whose = False, None
    if not usable:
        about = f"the URL of {in_one_line(whose, 100)}" if whose else "the URL"
        message = f"{about} cannot be posted to; write it like https://tsa.example.org/tsr"
        raise AnchorError(message, Trouble.VALIDATION)
    if parts.username is not None or parts.password is not None:
        message = f"the URL of {whose} holds credentials; send them in a header, from the environment or a file"
        raise AnchorError(message, Trouble.VALIDATION)
    return url


def _sendable(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise AnchorError(f"{in_one_line(name, 60)!r} is no header's name", Trouble.VALIDATION)
        if not (value.isascii() and value.isprintable()):
            message = f"the header {name} holds a character that cannot be sent"
            raise AnchorError(message, Trouble.VALIDATION)
    return dict(headers)


def _read_ca_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CA_FILE_BYTES + 1)
    except OSError as error:
        raise AnchorError(f"{path}: cannot be read: {error.strerror}", Trouble.VALIDATION) from None
    if len(content) > MAX_CA_FILE_BYTES or b"-----BEGIN CERTIFICATE-----" not in content:
        raise AnchorError(f"{path}: holds no PEM certificates", Trouble.VALIDATION)
    return content


def _cause(error: PyreqwestError) -> str:
    """The innermost reason, which is the one that says what to mend."""
    details = getattr(error, "details", None)
    causes = details.get("causes") if isinstance(details, dict) else None
    return in_one_line(causes[-1]["message"] if causes else error.message) or type(error).__name__
