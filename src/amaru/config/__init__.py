"""``amaru.yaml``: the settings of every room; every mistake named with its path and line.

``load`` reads a file, ``parse`` a text; both give a ``Config`` or raise ``ConfigError`` with every mistake at once.
``ConfigWatcher`` notices a changed file. ``json_schema`` describes the file for editors.
"""

from amaru.config.demand import BreakerSettings, RetryBudgetSettings, RoutingSettings
from amaru.config.load import json_schema, load, parse
from amaru.config.models import ConfigFile, LoggingSettings, ServerSettings, StorageSettings
from amaru.config.report import effective, summary, warnings
from amaru.config.sense import HealthSettings, ProbeSettings, StabilitySettings
from amaru.config.sessions import SessionsSettings
from amaru.config.settings import Config, Provider, needs_restart
from amaru.config.sharing import SharingSettings
from amaru.config.watch import ConfigWatcher

__all__ = [
    "BreakerSettings",
    "Config",
    "ConfigFile",
    "ConfigWatcher",
    "HealthSettings",
    "LoggingSettings",
    "ProbeSettings",
    "Provider",
    "RetryBudgetSettings",
    "RoutingSettings",
    "ServerSettings",
    "SessionsSettings",
    "SharingSettings",
    "StabilitySettings",
    "StorageSettings",
    "effective",
    "json_schema",
    "load",
    "needs_restart",
    "parse",
    "summary",
    "warnings",
]
