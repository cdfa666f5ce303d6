"""Reads YAML into plain values, and remembers on which line each one stands.

Bounded on purpose, since the file may come from a mounted volume that others write: at most 4 MiB, 32 levels deep,
and 200,000 values once anchors are followed (the "billion laughs" grow exponentially there).

Scalars follow the core schema of YAML 1.2.2 (section 10.3), where only ``true`` and ``false`` are booleans: with
YAML 1.1's rules, a region called ``no`` would silently become ``False``, and ``12:30`` the number 750.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from amaru.files.problems import Loc, Problem, shown

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 32
MAX_VALUES = 200_000
_MAX_NUMBER_CHARACTERS = 100

# The C parser is some 20 times faster; wheels of PyYAML have it, some distributions' builds do not.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # Any: the two loaders share no base class in the stubs

_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_RESOLVER: Any = yaml.resolver.Resolver()  # Any: its methods are untyped
# PyYAML resolves timestamps and the like by itself; they are plain text here.
_YAML_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}"
    for kind in ("str", "int", "float", "bool", "null", "map", "seq", "merge", "timestamp", "value")
)


@dataclass
class Document:
    """A file's values, the line of each, and what is wrong with the file as YAML."""

    data: dict[str, Any] = field(default_factory=dict)  # Any: raw YAML, typed by the models
    lines: dict[Loc, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line_of(self, loc: Loc) -> int | None:
        """The line of a value, or of the closest one around it that stands in the file."""
        for length in range(len(loc), 0, -1):
            if loc[:length] in self.lines:
                return self.lines[loc[:length]]
        return None


class _Refused(Exception):
    """Ends the reading; never leaves this module."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


def read_document(content: bytes, example: str = "") -> Document:
    """Parses a file's bytes. Never raises for what is in them: every mistake is in ``Document.problems``.

    ``example`` says where to find a file as it should be; it is the remedy for one that holds something else.
    """
    document = Document()
    try:
        root = _compose(_decode(content))
        if root is None or (isinstance(root, yaml.ScalarNode) and not root.value):
            raise _Refused(Problem((), "the file is empty", example))
        if not isinstance(root, yaml.MappingNode):
            kind = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
            raise _Refused(Problem((), f"must hold `name: value` lines, not {kind}", example, _line(root)))
        document.data = _Walk(document).value(root, ())
    except _Refused as refused:
        document.data = {}
        document.problems.append(refused.problem)
    return document


def _decode(content: bytes) -> str:
    if len(content) > MAX_BYTES:
        size = f"{len(content) / 1024 / 1024:.1f} MiB, more than {MAX_BYTES // 1024 // 1024} MiB"
        raise _Refused(Problem((), f"the file is too large: {size}", "is this the right file?"))
    try:
        # utf-8-sig: editors on Windows begin files with a byte order mark.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = content[error.start]
        raise _Refused(Problem((), f"not UTF-8: byte 0x{byte:02x}", "save the file as UTF-8", line)) from None


def _compose(text: str) -> yaml.Node | None:
    """The file's tree of nodes. Depth is bounded first, over flat events: composing recurses, in C without a net."""
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else None
                raise _Refused(Problem((), f"nested deeper than {MAX_DEPTH} levels", "check the brackets", line))
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise _Refused(_syntax_problem(error, text)) from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1 if isinstance(error.position, int) else None
        code = error.character if isinstance(error.character, int) else ord(str(error.character)[:1] or "\0")
        what = f"a character that YAML does not allow: U+{code:04X}"
        raise _Refused(Problem((), what, "remove it, or save the file as UTF-8", line)) from None
    return node


def _syntax_problem(error: yaml.MarkedYAMLError, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
    what = f"not valid YAML: {error.problem or error.context or 'cannot be parsed'}"
    # A file that ends too early is marked on the line after its last.
    lines = text.splitlines()
    at = lines[line - 1] if line and line <= len(lines) else ""
    # PyYAML says "found character that cannot start any token", and leaves the reader to guess which.
    if "\t" in at[: len(at) - len(at.lstrip())] or at[(column or 1) - 1 : column or 1] == "\t":
        return Problem((), "not valid YAML: a tab", "indent with spaces", line, column)
    if "found another document" in what:
        return Problem((), "not valid YAML: a second document begins", "remove the --- line", line, column)
    remedy = "check the indentation, colons and quotes on this line and the one above"
    return Problem((), what, remedy, line, column)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


class _Walk:
    """Turns nodes into values, and notes lines, duplicates and tags on the way."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0

    def value(self, node: yaml.Node, loc: Loc) -> Any:  # Any: whatever the file holds
        self.count += 1
        if len(loc) > MAX_DEPTH:
            raise _Refused(Problem((), f"anchors nest deeper than {MAX_DEPTH} levels", "write it out", _line(node)))
        if self.count > MAX_VALUES:
            what = f"more than {MAX_VALUES} values once anchors are followed"
            raise _Refused(Problem((), what, "use fewer anchors", _line(node)))
        self.document.lines.setdefault(loc, _line(node))
        if node.tag not in _YAML_TAGS:
            self._problem(loc, f"the tag {shown(node.tag)} has no meaning here", "remove it", node)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*loc, index)) for index, child in enumerate(node.value)]
        return scalar(node.value) if isinstance(node, yaml.ScalarNode) and _is_plain(node) else node.value

    def mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(loc, "a list or mapping cannot be a name", "write `name: value`", key_node)
                continue
            key = str(key_node.value)
            here = (*loc, key)
            if key == "<<" and not key_node.style:
                for source in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                    inherited = self.value(source, loc)
                    if isinstance(inherited, Mapping):
                        merged = {**inherited, **merged}
                    else:
                        self._problem(loc, "`<<` takes an anchored mapping", "write `<<: *name`", key_node)
                continue
            if key in values:
                first = self.document.lines.get(here)
                self._problem(here, f"written twice (first on line {first})", "remove one of the two", key_node)
                continue
            self.document.lines[here] = _line(key_node)
            values[key] = self.value(value_node, here)
        return {**merged, **values}

    def _problem(self, loc: Loc, what: str, remedy: str, node: yaml.Node) -> None:
        self.document.problems.append(Problem(loc, what, remedy, _line(node)))


def _is_plain(node: yaml.ScalarNode) -> bool:
    """Without quotes, and not made a string by an explicit ``!!str`` (PyYAML would have resolved it otherwise)."""
    if node.style:
        return False
    resolved = _RESOLVER.resolve(yaml.ScalarNode, node.value, (True, False))
    return bool(node.tag != "tag:yaml.org,2002:str" or resolved == node.tag)


def scalar(text: str) -> str | int | float | bool | None:
    """A plain scalar's value under YAML 1.2's core schema."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if len(text) > _MAX_NUMBER_CHARACTERS:
        return text
    if _INT.fullmatch(text):
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
    if _FLOAT.fullmatch(text):
        return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))
    return text


class _Dumper(yaml.SafeDumper):
    """Writes no anchors, and quotes what only YAML 1.2 takes for a number (``1e3``, ``0o17``)."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the base class asks about a value
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes U+0085 as it is, which YAML 1.1 readers, itself among them, take for the end of a line.
    style = '"' if not text.isprintable() else None if scalar(text) == text else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_number(dumper: yaml.SafeDumper, number: float) -> yaml.ScalarNode:
    whole = number.is_integer() and abs(number) < 1e15
    return dumper.represent_int(int(number)) if whole else dumper.represent_float(number)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(float, _represent_number)


def write_document(values: dict[str, Any]) -> str:  # Any: plain values
    """The YAML that ``read_document`` reads as these values; what holds no list or mapping stands on one line."""
    style: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None, "width": 110}
    return str(yaml.dump(values, Dumper=_Dumper, **style))
