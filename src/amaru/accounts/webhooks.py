"""A webhook: messages that are signed as Standard Webhooks 1.0.0 has it, and posted.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

The URL is the operator's: it stands in the configuration, and no key of the admin API changes it. So it may lead to a
private address, as receivers of alerts often do; redirects, which others could turn there, are not followed.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import math
import re
from collections.abc import Sequence
from hashlib import sha256
from urllib.parse import unquote, urlsplit

from amaru.http1.posting import LIMIT_S, Poster, PostError
from amaru.telemetry.redaction import in_one_line

PREFIX = "whsec_"
MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64
CONTENT_TYPE = "application/json"
_TOKEN_CHARACTERS = 8
"""A part of a URL that is as long may be a secret."""


def read_secret(text: str) -> bytes:
    """The key that ``whsec_…`` stands for: base64, prefix or not, as the specification's libraries read it.

    Raises
    ------
    ValueError
        It is no base64, or not of 24 to 64 bytes. The message does not repeat it.
    """
    encoded = text.strip().removeprefix(PREFIX).rstrip("=")
    try:
        secret = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the secret is no base64") from None
    if not MIN_SECRET_BYTES <= len(secret) <= MAX_SECRET_BYTES:
        raise ValueError(
            f"the secret stands for {len(secret)} bytes; it must be {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES}"
        )
    return secret


def signed_headers(secrets: Sequence[bytes], id: str, at: float, body: bytes) -> dict[str, str]:
    """The three headers of a message; one signature under each secret, so that the receiver may have either."""
    seconds = str(math.floor(at))
    content = b".".join((id.encode(), seconds.encode(), body))
    signatures = [base64.b64encode(hmac.digest(secret, content, sha256)).decode() for secret in secrets]
    return {
        "webhook-id": id,
        "webhook-timestamp": seconds,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


class Hook:
    """Where messages go, and what signs them.

    Parameters
    ----------
    url
        Where to. It may hold a token: no message, log or store gets to see more of it than ``place``.
    secrets
        As ``read_secret`` gives them: the one that is valid; the one before it too, while receivers change over.
    limit_s
        Seconds that a call may take, to the last byte of its answer.

    Attributes
    ----------
    place
        The URL's scheme and host.

    Raises
    ------
    PostError
        The URL cannot be used.
    """

    def __init__(self, url: str, secrets: Sequence[bytes], *, limit_s: float = LIMIT_S) -> None:
        parts = urlsplit(url)
        self.place = f"{parts.scheme}://{parts.netloc}"
        self._secrets = tuple(secrets)
        self._limit_s = limit_s
        self._url = url
        given = [part for part in re.split(r"[/&=?]", f"{parts.path}?{parts.query}") if len(part) >= _TOKEN_CHARACTERS]
        self._hidden = re.compile("|".join(map(re.escape, (url, *given, *map(unquote, given)))))
        self._poster = Poster(url, limit_s=limit_s)

    def send(self, id: str, body: bytes, at: float) -> str:
        """Post one message; what was answered, in words. Raises PostError: it was not taken."""
        try:
            headers = signed_headers(self._secrets, id, at, body)
            answer = self._poster.post(body, CONTENT_TYPE, headers=headers)
        except PostError as error:
            raise PostError(
                self._shown(str(error)),
                status=error.status,
                is_passing=error.is_passing,
                retry_after_s=error.retry_after_s,
            ) from None
        return self._shown(in_one_line(answer.decode("utf-8", "replace")))

    def close(self) -> None:
        """Let the connections go."""
        self._poster.close()

    def _shown(self, words: str) -> str:
        return self._hidden.sub(lambda found: f"{self.place}/…" if found[0] == self._url else "…", words)
