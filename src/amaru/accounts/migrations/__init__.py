"""How the accounts' tables came to be, step by step: Alembic's revisions in ``versions/``, run when a store is opened.

A new one: change ``accounts/schema.py``, write ``versions/vNNNN_….py`` with the next number, set ``SCHEMA_VERSION``. A
test holds what the steps make equal to what the schema describes, on both engines.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection


def upgrade(connection: Connection) -> None:
    """Run what is missing, inside the connection's transaction. Raises what the driver raises."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
