"""``URL@version``: how a configuration names an artifact."""

from __future__ import annotations

import re
from typing import NamedTuple

from amaru.errors import ArtifactError
from amaru.learning.artifact_files import redact_url

PROMOTED, LATEST = "promoted", "latest"

VERSION = re.compile(r"v([1-9][0-9]{0,8})")
"""``v1``, ``v2``, …: whole."""


class Reference(NamedTuple):
    """Where an artifact lies, and which version of it: ``vN``, ``promoted`` or ``latest``."""

    url: str
    version: str


def parse_reference(text: str) -> Reference:
    """``URL@version`` of a configuration; without a version, what is promoted. Raises ``ArtifactError``.

    An ``@`` before the last ``/`` belongs to the URL, as does one that ends the user info of ``//user:password@host``.

    >>> parse_reference("s3://models/amaru@v3")
    Reference(url='s3://models/amaru', version='v3')
    >>> parse_reference("/srv/amaru@home/artifacts")
    Reference(url='/srv/amaru@home/artifacts', version='promoted')
    """
    shown = redact_url(text)
    url, at, version = text.strip().rpartition("@")
    authority = url.partition("://")[2] if "://" in url else ""
    userinfo = bool(authority) and "/" not in authority and re.search(r":(?!\d+$)", authority) is not None
    if not at or "/" in version or userinfo:
        url, version = text.strip(), PROMOTED
    elif version not in (PROMOTED, LATEST) and not VERSION.fullmatch(version):
        raise ArtifactError(
            f"{shown}: what follows the last @ is no version — write @v3, @promoted or @latest"
            " (and @promoted after a URL that ends with an @ of its own)"
        )
    if not url or url.endswith("://"):
        raise ArtifactError(f"{shown!r}: no URL — write URL@version, for example s3://models/amaru@v3")
    return Reference(url, version)
