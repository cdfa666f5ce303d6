"""Files that people write: YAML with the line of every value, and every mistake in one go, in words.

``read_document`` reads the YAML, ``validate`` fits it to a pydantic model, and each gives ``Problem``s that say where,
what and what to write instead. ``amaru.yaml`` and the scenarios of the war-game are read this way.
"""

from amaru.files.document import MAX_BYTES, Document, read_document
from amaru.files.problems import MAX_PROBLEMS, Loc, Problem, dotted, shown, suggest
from amaru.files.translate import validate

__all__ = [
    "MAX_BYTES",
    "MAX_PROBLEMS",
    "Document",
    "Loc",
    "Problem",
    "dotted",
    "read_document",
    "shown",
    "suggest",
    "validate",
]
