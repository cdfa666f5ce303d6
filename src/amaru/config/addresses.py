"""Addresses of stores in ``amaru.yaml``: passwords come from elsewhere, and are shown nowhere."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

from amaru.config.secrets import Secrets
from amaru.files.problems import Loc, Problem

Url = Annotated[str, Field(min_length=1, max_length=4096)]

_PASSWORD = re.compile(r"://(?:\{env:[^}]*\}|[^/@:{])*:(?!\{env:[^}@]*\}@)[^/@]+@|[?&]password=(?!\{env:)")
"""One that stands in a URL itself."""
_SECRET_PARTS = re.compile(r"(?<=://)[^/@]*@|\?.*", re.DOTALL)


def check_password(loc: Loc, text: str | None, overridden: Collection[Loc]) -> list[Problem]:
    """Whether a password stands in the file; what the environment sets may hold one."""
    if text is None or loc in overridden or not _PASSWORD.search(text):
        return []
    return [Problem(loc, "passwords do not stand in this file", "write {env:NAME} in its place")]


def redis_url(
    loc: Loc, text: str | None, secrets: Secrets, overridden: Collection[Loc]
) -> tuple[str | None, list[Problem]]:
    """The URL of a Redis with its variables filled in, and what is wrong with it."""
    if text is None:
        return None, []
    problems = check_password(loc, text, overridden)
    url = secrets.url(loc, text)
    if not _leads_to_host(url, "redis", "rediss"):
        problems.append(Problem(loc, "not a Redis URL", "write redis://host:6379/0"))
    return url, problems


def without_secrets(url: str) -> str:
    """Without user, password and parameters, of which some may be secret; a path stays as it is."""
    return _SECRET_PARTS.sub("", url) if "://" in url else url


def _leads_to_host(url: str, *schemes: str) -> bool:
    """Whether it is a URL of one of the schemes, with a host and no port that cannot be."""
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
