"""``amaru init``: writes a commented configuration from the keys found in the environment."""

from __future__ import annotations

import os
import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer


def init(
    path: Annotated[Path, typer.Option(help="Where to write it.", envvar="AMARU_CONFIG")] = Path("amaru.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> None:
    """Writes a commented amaru.yaml from the keys found in the environment.

    It looks for OPENAI_API_KEY, GROQ_API_KEY and the like, and writes the variables' names, never the keys. It makes
    a key for your application and one for the operator, and prints them once; the file holds their SHA-256 only.
    """
    from amaru.accounts.keys import hash_key, new_key
    from amaru.cli.starter import find_providers, starter
    from amaru.config import parse

    if path.exists() and not force:
        typer.echo(f"{path} is there already; overwrite it with --force, or name another with --path", err=True)
        raise typer.Exit(1)
    found = find_providers(os.environ)
    key, operator_key = new_key(), new_key()
    text = starter(found, hash_key(key), hash_key(operator_key))
    config = parse(text, path)
    try:
        _write(path, text, force)
    except OSError as error:
        typer.echo(f"{path} cannot be written: {error.strerror}", err=True)
        raise typer.Exit(1) from None
    model = next(iter(config.aliases))
    at = f" {shlex.quote(str(path))}" if path != Path("amaru.yaml") else ""
    option = f" --config{at}" if at else ""
    lines = [f"Wrote {path}, readable by you alone."]
    if found:
        lines.append(f"Providers: {', '.join(f'{known.id} ({variable})' for known, variable in found)}.")
        lines.append("Prices and models are examples: check them against your contracts.")
    else:
        lines.append("No provider's key was found in the environment, so it names simulated providers.")
    address = f"http://{config.server.host}:{config.server.port}"
    lines += [
        "",
        "Your application's key, and the operator's for /status and /metrics, shown this",
        "once (the file holds only their SHA-256):",
        "",
        f"  AMARU_KEY={key}",
        f"  AMARU_OPERATOR_KEY={operator_key}",
        "",
        "Next, the servers each in a terminal of its own:",
        "",
        f"  amaru config check{at}",
        *([] if found else ["  amaru simulate"]),
        f"  amaru serve{option}",
        "",
        f'  curl {address}/v1/chat/completions -H "Authorization: Bearer $AMARU_KEY" \\',
        f"""    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'""",
        f'  curl {address}/status -H "Authorization: Bearer $AMARU_OPERATOR_KEY"',
    ]
    typer.echo("\n".join(lines))


def _write(path: Path, text: str, force: bool) -> None:
    """Mode 0600 from the first byte on; an old file is replaced whole, so that a reload never meets half of one."""
    if force:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    else:
        # Exclusive: a file that appeared since we looked is not overwritten.
        name = str(path)
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    if force:
        Path(name).replace(path)
