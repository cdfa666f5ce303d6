"""Answers that arrive whole and well, and say something else than OpenAI's would: other fields, other words."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import msgspec

from amaru.simulation.answers import Choice
from amaru.simulation.faults import FIELD_EDITS, TEXT_EDITS, Fault
from amaru.simulation.text import words

REPEATED_TOKENS = 4
"""What a provider repeats that repeats itself."""
# Without the first word, which has no space before it.
_REPEATED = words(REPEATED_TOKENS + 1, random.Random("repeated"))[1:]  # noqa: S311 -- fixed words, no secret
_DATA = b"data: "


def edited_choices(choices: list[Choice], edits: Iterable[Fault]) -> list[Choice]:
    """The answers with other words, where a fault wants that; calls of functions stay."""
    for fault in edits:
        if fault.kind in TEXT_EDITS:
            choices = [choice if choice.call is not None else _reworded(choice, fault) for choice in choices]
    return choices


def _reworded(choice: Choice, fault: Fault) -> Choice:
    if fault.kind == "empty_text":
        return msgspec.structs.replace(choice, tokens=[], finish_reason="stop")
    tokens = [_REPEATED[place % REPEATED_TOKENS] for place in range(len(choice.tokens))]
    return msgspec.structs.replace(choice, tokens=tokens)


def edited_body(body: bytes, edits: Iterable[Fault]) -> bytes:
    """A whole answer with other fields."""
    faults = _of_fields(edits)
    return _edited(body, faults, stream=False) if faults else body


def edited_event(event: bytes, edits: Iterable[Fault]) -> bytes:
    """An event of a stream with other fields; ``[DONE]`` has none."""
    faults = _of_fields(edits)
    if not faults or not event.startswith(_DATA + b"{"):
        return event
    return _DATA + _edited(event.removeprefix(_DATA), faults, stream=True) + b"\n\n"


def unstreamed(edits: Iterable[Fault]) -> bool:
    """Whether a stream is answered as a whole."""
    return any(fault.kind == "unstreamed" for fault in edits)


def _of_fields(edits: Iterable[Fault]) -> list[Fault]:
    """Those that change fields; envelopes last, since paths begin inside of them."""
    faults = [fault for fault in edits if fault.kind in FIELD_EDITS or fault.kind == "wrapped_answer"]
    return sorted(faults, key=lambda fault: fault.kind == "wrapped_answer")


def _edited(data: bytes, faults: list[Fault], *, stream: bool) -> bytes:
    answer = msgspec.json.decode(data)
    for fault in faults:
        if fault.kind == "wrapped_answer":
            answer = {"status": "ok", fault.name: answer}
            continue
        path = ["delta" if stream and name == "message" else name for name in fault.field.split(".")]
        _edit(answer, path, fault)
    return msgspec.json.encode(answer)


def _edit(value: Any, path: list[str], fault: Fault) -> None:  # Any: JSON
    name = path[0].removesuffix("[]")
    if not isinstance(value, dict) or name not in value:
        return
    if len(path) > 1:
        held = value[name]
        for item in held if isinstance(held, list) else [held]:
            _edit(item, path[1:], fault)
    elif fault.kind == "renamed_field":
        value[fault.name] = value.pop(name)
    elif fault.kind == "null_field":
        value[name] = None
    else:
        del value[name]
