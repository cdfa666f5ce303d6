"""The ``amaru`` command; one file per command group."""
