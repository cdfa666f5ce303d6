"""What callers send to the psi-field service: read, checked, and refused in words that name the field at fault."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import msgspec

from amaru.errors import RequestError
from amaru.stability.field_settings import FieldSettings, FieldWeights
from amaru.stability.guardian import GuardianSettings
from amaru.stability.swarm import MAX_NODES, NodeMetrics

MAX_BODY_BYTES = 4 * 1024 * 1024
"""Ten thousand nodes' metrics, or a step of the largest dimension many times over."""
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
T = TypeVar("T")

_PLACE = re.compile(r" - at `\$?\.?(.*)`$")
_OWN = ("guardian", "names", "reset")


class Init(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /init``."""

    field: FieldSettings
    guardian: GuardianSettings | None
    names: tuple[str, ...] | None
    reset: bool


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /step``."""

    x: list[float | None]
    apply_guardian: bool = True
    at: Annotated[float, msgspec.Meta(ge=0, le=1e12)] | None = None
    cut: bool = False


class Trigger(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /guardian/nigredo``, ``/guardian/albedo``, ``/guardian/on``, ``/guardian/off``; the body may be empty."""

    by: Name = "operator"


class Applied(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /guardian/applied``."""

    id: Name
    changed: Annotated[dict[str, str], msgspec.Meta(max_length=1000)]


class Swarm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /federation/swarm``."""

    nodes: Annotated[list[NodeMetrics], msgspec.Meta(min_length=1, max_length=MAX_NODES)]


class _Extras(msgspec.Struct, frozen=True, kw_only=True):
    guardian: GuardianSettings | None = None
    names: tuple[Name, ...] | None = None
    reset: bool = False


def read(body: bytes, type: type[T]) -> T:
    """The body as ``type``. Raises ``RequestError`` 400."""
    try:
        return msgspec.json.decode(body or b"{}", type=type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise refused(error) from None


def read_init(body: bytes) -> Init:
    """The body of ``POST /init``: settings of the field, and beside them those of the service. Raises 400.

    ``kind`` is ``rewards`` where it is left out: a training says no more than its dimension.
    """
    given = read(body, dict[str, Any])  # Any: JSON
    if "dimension" not in given:
        raise RequestError(400, 'dimension: is missing; send {"dimension": 16}, say', param="dimension")
    _refuse_unknown(given, (*FieldSettings.__struct_fields__, *_OWN), "")
    for name, type in (("weights", FieldWeights), ("guardian", GuardianSettings)):
        if isinstance(given.get(name), dict):
            _refuse_unknown(given[name], type.__struct_fields__, f"{name}.")
    if given.get("kind", "rewards") not in ("rewards", "latencies"):
        raise RequestError(400, "kind: is neither 'rewards' nor 'latencies'", param="kind")
    settings = {name: value for name, value in given.items() if name not in _OWN}
    try:
        field = msgspec.convert({"kind": "rewards", **settings}, FieldSettings)
        extras = msgspec.convert({name: given[name] for name in _OWN if name in given}, _Extras)
    except msgspec.ValidationError as error:
        raise refused(error) from None
    names = extras.names
    if names is not None and len(names) != field.dimension:
        raise RequestError(
            400, f"names: are {len(names)}, and the dimension is {field.dimension}; name each signal", param="names"
        )
    if names is not None and len(set(names)) < len(names):
        raise RequestError(400, "names: one of them comes twice; name each signal differently", param="names")
    return Init(field=field, guardian=extras.guardian, names=names, reset=extras.reset)


def refused(error: Exception) -> RequestError:
    """A 400 that names the field at fault, as far as ``error`` does."""
    words = str(error)
    found = _PLACE.search(words)
    place = found[1] if found else ""
    words = _PLACE.sub("", words)
    if not isinstance(error, msgspec.ValidationError):
        odd = "invalid character" in words
        hint = "; NaN and Infinity are no JSON: send null for a value that is missing" if odd else ""
        return RequestError(400, f"The body is no JSON: {words}{hint}")
    if not place:  # told in words of its own, or a field that is missing
        missing = re.search(r"required field `(\w+)`|unknown field `(\w+)`", words)
        place = (missing[1] or missing[2]) if missing else words.partition(":")[0] if ":" in words else ""
        return RequestError(400, words, param=place or None)
    return RequestError(400, f"{place}: {words}", param=place)


def _refuse_unknown(given: dict[str, Any], known: tuple[str, ...], where: str) -> None:  # Any: JSON
    for name in given:
        if name not in known:
            shown = f"{where}{name[:64]}"
            raise RequestError(400, f"{shown}: is unknown; known are {', '.join(known)}", param=shown)
