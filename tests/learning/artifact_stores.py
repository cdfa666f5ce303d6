"""Stores that the tests of artifacts share."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from amaru.errors import ArtifactError
from amaru.learning.artifacts import ArtifactStore

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(params=["folder", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    root = {"folder": f"{tmp_path}/store", "file": f"file://{tmp_path}/store", "memory": f"memory://{tmp_path.name}"}
    return ArtifactStore(root[request.param], clock=lambda: NOON)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def three(folder: Path) -> ArtifactStore:
    """v1, v2 and v3, of which v1 and then v2 were promoted."""
    store = ArtifactStore(str(folder), clock=lambda: NOON)
    for number in (1, 2, 3):
        store.publish("thompson", b"state %d" % number, knobs={"half_life": number / 2})
    store.promote("v1")
    store.promote("v2")
    return store


def refused(call: object, *words: str) -> str:
    assert callable(call)
    with pytest.raises(ArtifactError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)
