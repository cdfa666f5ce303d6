"""What the OpenAPI document says of the ledger's endpoints."""

from __future__ import annotations

from typing import Any

from amaru.mesh import DecisionReceipts, LedgerStatus

Json = dict[str, Any]  # Any: a JSON document

LEDGER_TYPES = (LedgerStatus, DecisionReceipts)
"""Whose schemas are made from the types themselves."""

CHECKPOINT_EXAMPLE = (
    "gateway/ledger-5f3a91c2\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— gateway/ledger-5f3a91c2 Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE"
    "+xeMcTOAYQ8=\n"
)


def _in_path(name: str, pattern: str, description: str, example: str) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": pattern},
        "description": description,
        "example": example,
    }


TILE = _in_path(
    "tile",
    r"^(entries|[0-9]{1,2})/(x[0-9]{3}/)*[0-9]{3}(\.p/[0-9]{1,3})?$",
    "Level and number as https://c2sp.org/tlog-tiles has them, slashes included: `0/x001/234`, `entries/000.p/7`.",
    "0/000",
)
KEPT = _in_path(
    "path",
    r"^(x[0-9]{3}/){0,2}([0-9]{3}(\.p/([1-9][0-9]{0,2})?)?)?$",
    "A file, 256 checkpoints each, numbered and divided as tiles are: `000`, `001.p/44`; or a folder, with a slash at "
    "its end.",
    "000.p/1",
)
PROOF = _in_path(
    "path",
    r"^(checkpoints|artifacts)/([0-9a-f]{1,64}/){0,2}[-0-9a-z.]{0,40}$",
    "`checkpoints/MILLIONS/SIZE/` lists what was got for the checkpoint of that size: the `checkpoint` itself, GPG "
    "signatures (`….asc`, with the key as `….key`) and RFC 3161 time-stamps (`….tsr`).",
    "checkpoints/",
)


def ledger_paths(errors: Any, operator: Any) -> Json:  # Any: what `openapi` makes errors of, and the security
    """The paths below ``/ledger/``."""

    def get(summary: str, operation: str, media: str, example: str | None = None, parameters: Any = None) -> Json:
        content: Json = {"schema": {"type": "string"}}
        if media == "application/octet-stream":
            content = {}
        elif example is not None:
            content["example"] = example
        found: Json = {
            "summary": summary,
            "description": "For operators; for everybody where `ledger.public` says so.",
            "operationId": operation,
            "tags": ["Ledger"],
            "responses": {"200": {"description": "Done", "content": {media: content}}, **errors(401, 403, 404)},
            "security": operator,
        }
        if parameters is not None:
            found["parameters"] = parameters
        return found

    text, octets = "text/plain", "application/octet-stream"
    slash = get("The folder of checkpoints that were published", "ledgerCheckpointsFolder", "text/html")
    slash["responses"]["308"] = {"description": "To the same with a slash at its end, where links are listed"}
    return {
        "/ledger/checkpoint": {
            "get": get("The log's signed checkpoint (C2SP tlog-checkpoint)", "checkpoint", text, CHECKPOINT_EXAMPLE)
        },
        "/ledger/vkey": {"get": get("The log's public keys (C2SP signed-note)", "ledgerKeys", text)},
        "/ledger/pruned": {"get": get("Which entries were erased, if any", "ledgerPruned", text)},
        "/ledger/tile/{tile}": {
            "get": get("A tile of the log (C2SP tlog-tiles)", "ledgerTile", octets, parameters=[TILE])
        },
        "/ledger/checkpoints": {"get": slash},
        "/ledger/checkpoints/{path}": {
            "get": get("Checkpoints that were published", "ledgerCheckpoints", octets, parameters=[KEPT])
        },
        "/ledger/proofs/{path}": {
            "get": get("Signatures and time-stamps over checkpoints", "ledgerProofs", octets, parameters=[PROOF])
        },
    }
