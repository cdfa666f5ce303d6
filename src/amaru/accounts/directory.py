"""The directory: tenants, teams, keys and allowances, kept in the store; every change of them audited.

Its methods block (a few milliseconds on SQLite, round trips on PostgreSQL): an event loop calls them in a thread. They
raise ``AccountError`` for what cannot be done as asked, and ``StorageError`` where the store fails; either way nothing
was changed. ``by`` is who changes it: a key's id, or a user of the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from amaru.accounts.changes import ChangeLog
from amaru.accounts.directory_allowances import Allowances
from amaru.accounts.directory_base import Desk, FromFile
from amaru.accounts.directory_keys import Keys
from amaru.accounts.directory_tenants import Teams, Tenants
from amaru.accounts.pepper_kept import KeptPepper
from amaru.accounts.retention import prune
from amaru.accounts.store import Store
from amaru.errors import AccountConflict


class Directory:
    """Tenants, teams, keys and allowances.

    Parameters
    ----------
    store
        Open.
    pepper
        Path of the keys' pepper, which is made with the first key.
    from_file
        What the configuration has.
    clock
        Unix seconds.

    Attributes
    ----------
    tenants, teams, keys, allowances
        What there is, and how it is changed.
    log
        Who changed what, when; and the version, which rises with each change.
    """

    def __init__(
        self, store: Store, pepper: Path, from_file: FromFile | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.store = store
        self.log = ChangeLog(store, clock)
        self._desk = Desk(store, self.log, clock, from_file or FromFile())
        self.tenants = Tenants(self._desk)
        self.teams = Teams(self._desk, self.tenants)
        self.keys = Keys(self._desk, self.teams, self.tenants, KeptPepper(pepper, store, self.log))
        self.allowances = Allowances(self._desk, self.teams, self.tenants, self.keys)

    @property
    def from_file(self) -> FromFile:
        """What the configuration has."""
        return self._desk.from_file

    def reload(self, from_file: FromFile) -> None:
        """Take another configuration. Raises AccountConflict, naming each name that the store has too."""
        tenants = sorted(from_file.tenants & self.tenants.stored())
        allowances = sorted({one.id for one in from_file.allowances} & {one.id for one in self.allowances.stored()})
        said = [f"tenant {id} (amaru tenants archive {id})" for id in tenants]
        said += [f"budget {id} (amaru budgets archive {id})" for id in allowances]
        if said:
            raise AccountConflict(
                f"{from_file.path} and the accounts' store {self.store.name} both have {', '.join(said)}. "
                "Take each out of the one or the other."
            )
        self.take(from_file)

    def take(self, from_file: FromFile) -> None:
        """The same without a look into the store, where it cannot be asked."""
        self._desk.from_file = from_file

    def prune(self) -> int:
        """As ``retention.prune``."""
        return prune(self.store, clock=self._desk.clock)
