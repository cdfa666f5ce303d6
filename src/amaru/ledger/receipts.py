"""What a leaf of the log says: one frozen type per kind of receipt, to and from RFC 8785 canonical JSON.

All share one head: ``v``, ``type``, ``at``, ``component``; and say as much more as they have. A field that holds its
default is left out of the JSON, so that a later amaru may add fields, and what an older one wrote reads as before. A
receipt is for ever, and may be read by anyone: it holds names, figures and digests, never a prompt or an answer (law
4), for which a salted HMAC stands.
"""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Any, Literal

import msgspec

from amaru.errors import LedgerError
from amaru.ledger.canonical import canonical

MAX_LEAF_BYTES = 65_535
"""Of one entry: C2SP tlog-tiles writes its length in 16 bits."""
MAX_NOTE = 4_000
"""Characters; what is longer belongs into a file, which ``evidence`` names by its digest."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\s\x00-\x1f\x7f\"]+$")]
"""Without white space, as it is searched for by ``component:NAME``."""
Digest = Annotated[str, msgspec.Meta(pattern="^sha256:[0-9a-f]{64}$")]
Words = Annotated[str, msgspec.Meta(max_length=200)]
Note = Annotated[str, msgspec.Meta(max_length=MAX_NOTE)]
Instant = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]
"""RFC 3339 in UTC, with microseconds: all have one length, so that they sort as they read."""
Mark = Annotated[str, msgspec.Meta(pattern="^hmac-sha256:[0-9a-f]{64}$")]


class Evidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file as it was: its bytes are not in the log, their SHA-256 is."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    """Without its folder, which is nobody's business."""
    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=0)]
    """Bytes."""


class Receipt(  # kinds repeat kw_only: it holds for the fields of one class only
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, tag=str.lower
):  # fmt: skip
    """The head that all kinds share."""

    # A factory, because a plain default would be left out of the JSON.
    v: Literal[1] = msgspec.field(default_factory=lambda: 1)
    at: Instant
    """When it was recorded, by the clock of whoever did."""
    component: Name
    """What it is about: a service, a policy, a field."""
    version: Words = ""
    digest: Digest | Literal[""] = ""
    """Of what was deployed, trained, decided upon: an image's or a file's SHA-256."""
    evidence: tuple[Evidence, ...] = ()
    ref: Words = ""
    """Id of what it is about, where that has one: the decision's, the healing's, the run's."""
    by: Words = ""
    """Who recorded it; as told, not as proven: a signature proves."""
    note: Note = ""


class Deploy(Receipt, frozen=True, kw_only=True):
    """Something went into service."""

    environment: Words = ""
    envelope: dict[str, Any] | None = None  # Any: JSON
    """The in-toto Statement about it, in its signed DSSE envelope."""


class Training(Receipt, frozen=True, kw_only=True):
    """A policy was trained; ``ref`` is the run."""

    policy: Words = ""
    worlds: Words = ""
    seed: int | None = None
    episodes: int | None = None
    score: float | None = None
    metric: Words = ""
    """What the score is of."""


class Promotion(Receipt, frozen=True, kw_only=True):
    """A version of an artifact was put in charge; ``version`` is the new one."""

    store: Words = ""
    before: Words = ""
    """The version in charge until then."""


class Tried(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One attempt."""

    offer: str
    failure: str = ""
    """In the words of the failure taxonomy; empty: it succeeded."""
    latency_ms: float = 0.0


class Served(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What became of a decision."""

    ok: bool
    offer: str = ""
    """The one that answered, or the last one tried."""
    failure: str = ""
    status: int | None = None
    """HTTP."""
    latency_ms: float | None = None
    first_token_ms: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    usage_source: str = ""
    """Where the token counts came from."""
    cost_usd: float | None = None
    attempts: tuple[Tried, ...] = ()


class Decision(Receipt, frozen=True, kw_only=True):
    """What was decided: by a router for a request (``ref`` is the decision's id), or by people."""

    tenant: Words = ""
    resource: Words = ""
    kind: Words = ""
    policy: Words = ""
    board: Words = ""
    """Version of the offers that there were."""
    offers: tuple[str, ...] = ()
    """As ranked, the best first."""
    propensity: float | None = None
    explored: bool = False
    prompt: Mark | Literal[""] = ""
    """Its mark, see ``marks``: who holds the prompt and the salt can show that it was this one; others see which of a
    tenant's receipts are of one prompt."""
    outcome: Served | None = None


class Outcome(Receipt, frozen=True, kw_only=True):
    """What became of a decision, reported after it; ``ref`` is the decision's id."""

    outcome: Served


class Incident(Receipt, frozen=True, kw_only=True):
    """Something went wrong."""

    severity: Words = ""
    pattern: Words = ""
    offers: tuple[str, ...] = ()


class Discovery(Receipt, frozen=True, kw_only=True):
    """Something was found out that others should know."""


class Memory(Receipt, frozen=True, kw_only=True):
    """What a component had learned or kept, by its digest."""


class Adr(Receipt, frozen=True, kw_only=True):
    """An architecture decision record; ``ref`` is ``ADR-0007``, ``evidence`` its text."""

    title: Words
    status: Words
    """``proposed``, ``accepted``, ``superseded``, or what the file says."""


class Healing(Receipt, frozen=True, kw_only=True):
    """An action taken on a pattern, and what it changed; ``ref`` is the healing's id."""

    action: Words
    pattern: Words = ""
    offers: tuple[str, ...] = ()
    until: Instant | Literal[""] = ""
    changed: dict[str, str] = {}
    applied: bool = True
    """False: it was advice only."""
    ended: Words = ""
    """Why it ended; empty: it began."""
    effect: float | None = None
    """Change of users' success and latency, -1 to 1."""


class Intervention(Receipt, frozen=True, kw_only=True):
    """The guardian, or a person, acted on the whole; ``ref`` is the intervention's id."""

    action: Words
    changed: dict[str, str] = {}
    psi: float | None = None


class Pruning(Receipt, frozen=True, kw_only=True):
    """The entries before ``until`` were erased; their hashes remain."""

    until: Annotated[int, msgspec.Meta(ge=0)]


class Gap(Receipt, frozen=True, kw_only=True):
    """Receipts that could not be logged, and are missing here."""

    dropped: Annotated[int, msgspec.Meta(ge=0)]
    since: Instant | Literal[""] = ""
    until: Instant | Literal[""] = ""


AnyReceipt = (
    Deploy | Training | Promotion | Decision | Outcome | Incident | Discovery | Memory | Adr | Healing | Intervention
    | Pruning | Gap
)  # fmt: skip

PLURALS = {
    "deploy": "deployments", "training": "trainings", "promotion": "promotions", "decision": "decisions",
    "outcome": "outcomes", "incident": "incidents", "discovery": "discoveries", "memory": "memories", "adr": "adrs",
    "healing": "healings", "intervention": "interventions", "pruning": "prunings", "gap": "gaps",
}  # fmt: skip
"""Type → how a list of them is called."""
_TYPES = {name: kind for kind, plural in PLURALS.items() for name in (kind, plural)} | {"deployment": "deploy"}
_MEANT = {
    "component": "1 to 128 characters, without white space and quotes",
    "digest": "sha256: and 64 hexadecimal digits, in lower case",
    "at": "an instant in UTC with microseconds, 2026-09-21T14:13:20.000000Z",
    "prompt": "hmac-sha256: and 64 hexadecimal digits",
}
"""What is expected of a field, in better words than those of its pattern."""
_decoder = msgspec.json.Decoder(AnyReceipt)


def type_of(name: str) -> str:
    """The type that a person means by ``name``, in the singular or plural; ``name`` itself where none is called so."""
    return _TYPES.get(name.lower(), name)


def leaf_of(receipt: Receipt) -> bytes:
    """The receipt's canonical JSON, as it is logged.

    Raises
    ------
    LedgerError
        A field holds what such a receipt cannot, or all of it is too long for an entry.
    """
    plain = msgspec.to_builtins(receipt)
    try:
        msgspec.convert(plain, type(receipt))
        leaf = canonical(plain)
    except (msgspec.ValidationError, ValueError) as error:
        raise LedgerError(f"no such {plain['type']} can be recorded: {_plainly(error)}") from None
    if len(leaf) > MAX_LEAF_BYTES:
        raise LedgerError(
            f"the receipt has {len(leaf):,} bytes, an entry of the log at most {MAX_LEAF_BYTES:,}: put what is long "
            "into a file, and name that as evidence"
        )
    return leaf


def read_leaf(leaf: bytes) -> Receipt | None:
    """The receipt that a leaf holds; ``None``: of a kind, or with fields, that this amaru does not know."""
    try:
        receipt: Receipt = _decoder.decode(leaf)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return receipt


def rfc3339(unix_s: float) -> str:
    """An instant as receipts write it. Raises LedgerError: it is not between the years 1 and 9999."""
    try:
        # Via timedelta: whole microseconds, whatever the platform's own limits.
        at = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=round(unix_s * 1e6))  # noqa: DTZ001 -- UTC
    except (OverflowError, ValueError):
        raise LedgerError(f"{unix_s!r} is no time that can be recorded") from None
    return at.isoformat(timespec="microseconds") + "Z"


def unix_s(at: str) -> float:
    """The other way round. Raises ValueError."""
    if not at.endswith("Z"):
        raise ValueError(f"{at[:40]!r} is no time in UTC")
    return datetime.datetime.fromisoformat(at[:-1] + "+00:00").timestamp()


def _plainly(error: Exception) -> str:
    """msgspec's words without its syntax: ``component: expected …``."""
    said, _, place = str(error).partition(" - at `$.")
    name = place.rstrip("`")
    if name in _MEANT:
        return f"its {name} must be {_MEANT[name]}"
    if said.startswith("Expected `str` of length <= "):
        most = said.rpartition(" ")[2]
        return f"its {name} may have {most} characters; put what is long into a file, and name that as evidence"
    return f"its {name}: {said[:1].lower()}{said[1:]}" if name else re.sub(r"\s+", " ", said)[:200]
