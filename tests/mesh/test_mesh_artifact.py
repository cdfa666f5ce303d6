"""The artifact that a policy stands on: found in time or not, followed while it may change."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from learning_policy import GOOD, WORKLOAD

from amaru.config import Config, parse
from amaru.errors import ArtifactError
from amaru.learning.artifacts import ArtifactStore
from amaru.mesh import ArtifactSource, Mesh
from amaru.mesh import artifact as module
from amaru.mesh.origin import Origin
from amaru.routing.policies import make_policy
from amaru.storage import DecisionStore, StoreSettings
from amaru.telemetry.metrics import Metrics

PRICE = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}


def config(reference: str | None, **routing: Any) -> Config:
    settings = {
        "version": 1,
        "server": {"auth": "none"},
        "providers": {"a": {"base_url": "http://127.0.0.1:1/v1"}},
        "offers": [{"provider": "a", "resource": "m", "price": PRICE}],
        "routing": {"policy": "thompson", "policy_artifact": reference, **routing},
    }
    return parse(yaml.safe_dump(settings), env={})


OFFER = config(None).offers()[0]


def trained(outcomes: int) -> bytes:
    policy = make_policy("thompson")
    for _ in range(outcomes):
        policy.learn(WORKLOAD, OFFER, GOOD)
    return policy.state()


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(str(tmp_path / "artifacts"))
    for outcomes in (3, 6):
        store.publish("thompson", trained(outcomes))
    store.promote("v1")
    return store


class Serving:
    """A mesh that nobody calls, with its source of artifacts."""

    def __init__(self, folder: Path) -> None:
        self.url = str(folder / "artifacts")
        self.store = DecisionStore(StoreSettings(path=folder / "amaru.db", interval_s=0.01))
        self.store.start()
        self.source = ArtifactSource(self.store, limit_s=60.0)

    async def serve(self, reference: str | None, **routing: Any) -> Mesh:
        settings = config(reference, **routing)
        mesh = Mesh(settings, self.store, Metrics(), origin=await self.source.find(settings))
        mesh.artifacts = self.source
        return mesh

    async def stop(self, mesh: Mesh) -> None:
        await mesh.aclose()
        await self.store.close()


@pytest.fixture
def serving(tmp_path: Path, artifacts: ArtifactStore) -> Serving:
    return Serving(tmp_path)


async def test_a_promotion_swaps_the_policy_of_a_mesh_that_runs(serving: Serving, artifacts: ArtifactStore) -> None:
    mesh = await serving.serve(f"{serving.url}@promoted")
    assert mesh.learner.policy.state() == trained(3)
    assert mesh.plan.router.policy is mesh.learner.policy
    assert not await serving.source.look(mesh)
    before = mesh.plan
    mesh.learner.learn(WORKLOAD, OFFER, GOOD)
    artifacts.promote("v2")
    assert await serving.source.look(mesh)
    assert mesh.plan is not before
    assert mesh.plan.router.policy.state() == trained(6)
    assert (mesh.learner.used.artifact.partition("/")[0], mesh.learner.outcomes) == ("v2", 0)
    artifacts.rollback()
    assert await serving.source.look(mesh)
    assert mesh.plan.router.policy.state() == trained(3)
    await serving.stop(mesh)


async def test_a_version_that_is_named_stays(serving: Serving, artifacts: ArtifactStore) -> None:
    mesh = await serving.serve(f"{serving.url}@v1")
    artifacts.promote("v2")
    assert not await serving.source.look(mesh)
    assert mesh.learner.policy.state() == trained(3)
    await serving.stop(mesh)


async def test_what_was_learned_on_top_of_the_version_is_there_after_a_restart(
    tmp_path: Path, serving: Serving, artifacts: ArtifactStore
) -> None:
    mesh = await serving.serve(f"{serving.url}@promoted")
    for _ in range(4):
        mesh.learner.learn(WORKLOAD, OFFER, GOOD)
    await serving.stop(mesh)
    again = Serving(tmp_path)
    mesh = await again.serve(f"{serving.url}@promoted")
    assert (mesh.learner.policy.state(), mesh.learner.outcomes) == (trained(7), 4)
    await again.stop(mesh)
    artifacts.promote("v2")
    last = Serving(tmp_path)
    mesh = await last.serve(f"{serving.url}@promoted")
    assert (mesh.learner.policy.state(), mesh.learner.outcomes) == (trained(6), 0)
    await last.stop(mesh)


async def test_an_artifact_that_was_damaged_does_not_replace_the_policy(
    tmp_path: Path, serving: Serving, artifacts: ArtifactStore
) -> None:
    mesh = await serving.serve(f"{serving.url}@promoted")
    artifacts.promote("v2")
    digest = artifacts.manifest("v2").digest.removeprefix("blake2b:")
    blob = tmp_path / "artifacts" / "blobs" / digest
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    assert not await serving.source.look(mesh)
    assert mesh.learner.policy.state() == trained(3)
    assert (serving.source.failures, "damaged" in serving.source.failure) == (1, True)
    view = serving.source.view(mesh.plan.config)
    assert view is not None
    assert (view["failures"], view["version"]) == (1, "promoted")
    await serving.stop(mesh)


async def test_a_store_that_is_away_at_the_start_is_tried_again(serving: Serving, tmp_path: Path) -> None:
    elsewhere = tmp_path / "later"
    mesh = await serving.serve(f"{elsewhere}@promoted")
    assert mesh.learner.policy.state() == make_policy("thompson").state()
    assert serving.source.failures == 1
    with pytest.raises(ArtifactError):
        await serving.source.look(mesh)
    later = ArtifactStore(str(elsewhere))
    later.publish("thompson", trained(3))
    later.promote("v1")
    assert await serving.source.look(mesh)
    assert (mesh.learner.policy.state(), serving.source.failure) == (trained(3), "")
    await serving.stop(mesh)


async def test_an_artifact_of_another_policy_is_refused_in_words(serving: Serving, artifacts: ArtifactStore) -> None:
    origin = await serving.source.find(config(f"{serving.url}@v1", policy="hybrid"))
    assert origin == Origin(failure=serving.source.failure)
    assert "holds the policy thompson, and routing.policy is hybrid" in origin.failure
    await serving.store.close()


async def test_a_store_that_hangs_delays_the_start_by_the_limit_and_no_second_look_is_begun(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = threading.Event()
    monkeypatch.setattr(module, "_load", lambda *_: hanging.wait(60))
    source = ArtifactSource(serving.store, limit_s=0.05)
    origin = await source.find(config(f"{serving.url}@promoted"))
    assert origin.failure == "no answer within 0.05 s"
    again = await source.find(config(f"{serving.url}@promoted"))
    assert "has not come to an end" in again.failure
    hanging.set()
    await serving.store.close()


async def test_a_swap_that_fails_unforeseen_is_said_and_the_next_look_comes(
    serving: Serving, artifacts: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = await serving.serve(f"{serving.url}@promoted")
    artifacts.promote("v2")
    reload, told, slept = mesh.reload, [], asyncio.Event()

    def fails_once(*arguments: Any) -> None:
        monkeypatch.setattr(mesh, "reload", reload)
        raise OSError("no more files")

    async def sleep(_: float) -> None:
        told.append((serving.source.failure, mesh.learner.used.artifact.partition("/")[0]))
        if len(told) == 3:
            slept.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(mesh, "reload", fails_once)
    source = serving.source = ArtifactSource(serving.store, limit_s=5.0, sleep=sleep)
    following = asyncio.create_task(source.follow(mesh))
    await asyncio.wait_for(slept.wait(), 60.0)
    following.cancel()
    assert told == [("", "v1"), ("no more files", "v1"), ("", "v2")]
    assert source.failures == 1
    await serving.stop(mesh)


async def test_a_store_is_shown_without_asking_it_anything(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ArtifactStore", None)
    shown = serving.source.view(config("s3://models/amaru@v3"))
    assert shown == {"store": "s3://models/amaru", "version": "v3", "failure": None, "failures": 0}
    await serving.store.close()
