"""The pepper that a store's keys were made with: beside the data of each machine; the store knows its fingerprint."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import insert, select

from amaru.accounts.changes import ChangeLog
from amaru.accounts.pepper import Pepper, load_pepper, make_pepper
from amaru.accounts.schema import meta
from amaru.accounts.store import Store
from amaru.errors import StorageError

_MARK = select(meta.c.value).where(meta.c.key == "pepper")


class KeptPepper:
    """Loads the pepper once, and makes it with the first key. ``path``: of its file."""

    def __init__(self, path: Path, store: Store, log: ChangeLog) -> None:
        self.path = path
        self._store = store
        self._log = log
        self._pepper: Pepper | None = None

    def get(self) -> Pepper | None:
        """The pepper; ``None``: the store has none yet, and so no key.

        Raises
        ------
        StorageError
            The file cannot be read, is lost, or holds another pepper than the store's keys were made with.
        """
        if self._pepper is None:
            with self._store.reading() as connection:
                known = connection.execute(_MARK).scalar()
            if known is not None:
                self._pepper = self._load(known)
        return self._pepper

    def get_or_make(self) -> Pepper:
        """The pepper, made where there is none yet. Raises StorageError as ``get`` does, or where it cannot be made."""
        found = self.get()
        if found is None:
            make_pepper(self.path)
            made = load_pepper(self.path)
            found = self._pepper = self._load(self._claim(made.fingerprint if made else ""))
        return found

    def _claim(self, fingerprint: str) -> str:
        """Have the store know this pepper, unless another machine was faster; the mark that it knows."""
        with self._log.changing("amaru") as change:
            known = change.connection.execute(_MARK).scalar()
            if known is None:
                change.connection.execute(insert(meta).values(key="pepper", value=fingerprint))
            return known or fingerprint

    def _load(self, known: str) -> Pepper:
        found = load_pepper(self.path)
        if found is None:
            raise StorageError(
                f"{self.path}: the pepper of the keys in {self._store.name} is not there, without which none can be "
                "told. Restore it, or copy it from the machine that made the keys."
            )
        if found.fingerprint != known:
            raise StorageError(
                f"{self.path}: another pepper than the keys in {self._store.name} were made with. Copy theirs from "
                "the machine that made them."
            )
        return found
