"""For all tests: a busy machine fails none, clients cost little, and root is for once refused what others are."""

from __future__ import annotations

import ctypes
import functools
import os
from collections import Counter
from collections.abc import Iterator

import pytest
from httpx._transports import default as httpx_transports
from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if "CI" not in os.environ:  # there Hypothesis' own profile is as patient
    settings.load_profile("patient")

# Else each of thousands of clients loads the system's certificates anew, which takes longer than many a test.
httpx_transports.create_ssl_context = functools.cache(httpx_transports.create_ssl_context)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with most slow tests come first; quick ones then fill up what is left to each process."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


_VERSION_3 = 0x20080522
_OVERRIDES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: reading and writing whatever the modes say


@pytest.fixture
def modes_bind() -> Iterator[None]:
    """Root, too, is refused what the modes of files forbid: in this thread, and in those that it starts."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    effective = sets[0]
    try:
        sets[0] = effective & ~_OVERRIDES
        if libc.capset(header, sets):
            raise OSError(ctypes.get_errno(), "capset")
        yield
    finally:
        sets[0] = effective
        libc.capset(header, sets)
