"""MkDocs hook: adds the reference pages that are made from code, so that they cannot drift from it."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from reference import cli, configuration, failures, http_api, metrics, scenarios

PAGES = {
    "reference/cli.md": cli.page,
    "reference/configuration.md": configuration.page,
    "reference/failures.md": failures.page,
    "reference/http-api.md": http_api.page,
    "reference/metrics.md": metrics.page,
    "reference/scenarios.md": scenarios.page,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add each page as if it stood in ``docs/``."""
    for path, page in PAGES.items():
        files.append(File.generated(config, path, content=page()))
    return files
