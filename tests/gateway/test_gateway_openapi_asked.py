"""What Schemathesis asks for, of what the OpenAPI document describes, is answered as it says."""

from __future__ import annotations

import asyncio
import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from gateway_world import KEY, OPERATOR_KEY, World
from test_gateway_openapi import made_by_admin, shown

__all__ = ["shown"]

CONFIG = """
hooks = "hooks.py"
seed = 1

[generation]
deterministic = true
max-examples = 25
allow-extra-parameters = false  # unknown headers are nobody's mistake

[checks]
missing_required_header.enabled = false
use_after_free.enabled = false
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 504]  # deadlines of a millisecond are asked for

[phases.stateful]
max-steps = 6

# A well-formed wish may still be one that no offer meets, and a report one about an offer that was not asked about.
[[operations]]
include-path = ["/route", "/agent/feedback"]
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 404, 409]

# And these are an operator's, whatever is wished.
[[operations]]
include-path = ["/health/healings/veto", "/health/healings/pin", "/health/healings/lift"]
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 403, 404, 409]

# What is well-formed may still be nobody's, or taken. Texts stand for numbers, and null for what is left out, as in
# amaru.yaml.
[[operations]]
include-path-regex = "^/admin/"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 403, 404, 409, 412]
checks.negative_data_rejection.enabled = false

# Streams without an end.
[[operations]]
include-path = ["/health/events", "/admin/events"]
enabled = false
"""
HOOKS = """
import schemathesis


def written_as_integers(value):
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: written_as_integers(item) for name, item in value.items()}
    return [written_as_integers(item) for item in value] if isinstance(value, list) else value


@schemathesis.hook
def map_body(context, body):
    return written_as_integers(body)
"""
"""To JSON Schema 20.0 is an integer; to amaru and OpenAI's API it is not, and clients do not write integers so."""


def serves_only(document: dict[str, Any]) -> dict[str, Any]:
    """A copy in which every model and GPU type is one of those in ``OFFERS``."""
    narrowed = copy.deepcopy(document)
    schemas = narrowed["components"]["schemas"]
    schemas["ChatRequest"]["properties"]["model"] = {"enum": ["sim", "fast"]}
    schemas["CompletionRequest"]["properties"]["model"] = {"enum": ["sim", "fast"]}
    schemas["EmbeddingRequest"]["properties"]["model"] = {"enum": ["embed"]}
    schemas["Workload"]["allOf"].append(
        {"properties": {"model": {"enum": ["sim", "fast", None]}, "gpu_type": {"enum": ["A100", None]}}}
    )
    schemas["CompletionRequest"]["properties"]["logprobs"] = {"enum": [None, 0, 3]}
    return narrowed


async def schemathesis(world: World, tmp_path: Path, key: str | None, *options: str) -> str:
    """Run it; its report, where it found something."""
    served = await world.client.get("/openapi.json")
    narrowed = tmp_path / "openapi.json"
    narrowed.write_text(json.dumps(serves_only(served.json())))
    authorization = [] if key is None else ["--header", f"Authorization: Bearer {key}"]
    (tmp_path / "hooks.py").write_text(HOOKS)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "run", str(narrowed), "--url", world.base_url, "--no-color",
        "--suppress-health-check", "all", *authorization, *options,
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    print(output.decode())
    return "" if process.returncode == 0 else output.decode()


@pytest.mark.slow
async def test_tenants_get_what_the_document_says(shown: World, tmp_path: Path) -> None:
    assert not await schemathesis(shown, tmp_path, KEY)
    assert sum(provider.requests for provider in shown.providers.values()) > 200, "few requests got through"
    assert (await shown.chat()).status_code == 200


@pytest.mark.slow
async def test_operators_get_what_the_document_says(shown: World, tmp_path: Path) -> None:
    await shown.chat()
    read = "^/(status|metrics|providers|decisions|health)"
    assert not await schemathesis(shown, tmp_path, OPERATOR_KEY, "--include-path-regex", read)


@pytest.mark.slow
async def test_admins_get_what_the_document_says(shown: World, tmp_path: Path) -> None:
    await made_by_admin(shown)
    await shown.chat()
    assert not await schemathesis(shown, tmp_path, OPERATOR_KEY, "--include-path-regex", "^/admin/")
    assert (await shown.chat()).status_code == 200


@pytest.mark.slow
async def test_strangers_get_what_the_document_says(shown: World, tmp_path: Path) -> None:
    checks = "positive_data_acceptance,ignored_auth"  # both need a key
    options = ("--exclude-checks", checks, "--phases", "coverage,fuzzing", "--max-examples", "10")
    assert not await schemathesis(shown, tmp_path, None, *options)
    assert sum(provider.requests for provider in shown.providers.values()) == 0
