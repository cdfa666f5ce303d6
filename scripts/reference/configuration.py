"""``amaru.yaml``, from the JSON Schema that ``amaru config schema`` prints."""

from __future__ import annotations

from amaru.config import json_schema
from amaru.config.overrides import SECTIONS, variables
from reference.markdown import code, table
from reference.schema import sections

INTRO = """# Configuration

Everything that `amaru.yaml` may hold. `amaru config check` names every mistake in a file at once, with its path, its
line and what to do; `amaru config schema` prints the JSON Schema that this page is made from, for editors:

```yaml
# yaml-language-server: $schema=amaru.schema.json
```

A changed file takes effect without a restart, and without dropping a request. Fields marked ↻ are the exception: they
are read once, when the server starts.
"""

OVERRIDES = f"""## Environment variables

A single value of {", ".join(map(code, SECTIONS[:-1]))} or {code(SECTIONS[-1])} can be overridden by the environment,
which wins over the file: `AMARU_`, then the value's path in capitals, with two underscores at each step.
"""


def page() -> str:
    """The page's Markdown."""
    return "\n".join([INTRO, *sections(json_schema(), "amaru.yaml"), OVERRIDES, _overrides()])


def _overrides() -> str:
    return table(
        ("variable", "value"), ((code(name), code(".".join(map(str, loc)))) for name, loc in variables().items())
    )
