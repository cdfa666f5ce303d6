"""What Alembic runs to reach the database: the connection that ``upgrade`` handed it, in its transaction."""

from alembic import context

from amaru.accounts.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    # SQLite's tables are made inside transactions like PostgreSQL's, since we begin them ourselves.
    transactional_ddl=True,
)
context.run_migrations()
