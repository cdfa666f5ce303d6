"""A bundle, and the world that it comes from, made once: keys and signatures take their time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bundle_world import World, world

from amaru.ledger.bundle import Contents, Trust
from amaru.ledger.bundle_contents import read_contents
from amaru.ledger.trust import parse_trust


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as built:
        yield built


@pytest.fixture(scope="session")
def bundle(made: World) -> bytes:
    return made.bundle()


@pytest.fixture(scope="session")
def contents(bundle: bytes) -> Contents:
    return read_contents(bundle).contents


@pytest.fixture(scope="session")
def trust(made: World) -> Trust:
    return parse_trust(made.trust)
