"""Keys of the store: shown once when they are made, kept as keyed hashes; rotated with overlap, expired, revoked."""

from __future__ import annotations

import enum
import hashlib
import hmac
import math
import secrets
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import and_, bindparam, insert, or_, select, update
from sqlalchemy.engine import Connection, Row

from amaru.accounts.changes import Change, plain, require_text
from amaru.accounts.directory_base import Check, Desk, unchecked
from amaru.accounts.directory_tenants import Teams, Tenants
from amaru.accounts.pages import MAX_PAGE, Page, bounded, cut
from amaru.accounts.pepper import Pepper
from amaru.accounts.pepper_kept import KeptPepper
from amaru.accounts.schema import keys, teams, tenants
from amaru.errors import AccountConflict, AccountError, UnknownAccount
from amaru.files.problems import shown

MAX_OVERLAP_S = 400 * 86_400.0
"""Longer than a year: such a rotation replaces nothing."""


class Role(enum.StrEnum):
    """What an admin key opens; each opens what those before it do."""

    READ = "read"
    OPERATE = "operate"
    OWN = "own"


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A key, as lists show it: nothing of it opens anything."""

    id: str
    lineage: str
    """Id of the first key that it was rotated from, or its own; allowances of a key are its lineage's."""
    name: str
    last4: str
    tenant: str | None = None
    team: str | None = None
    role: Role | None = None
    """Of an admin key, which belongs to no tenant."""
    created_at: float
    created_by: str
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None

    def is_over(self, at: float) -> bool:
        """Revoked or expired by then."""
        return self.revoked_at is not None or (self.expires_at is not None and self.expires_at <= at)


class NewKey(msgspec.Struct, frozen=True):
    """A key that was made just now: the only time that it can be seen."""

    key: str
    info: KeyInfo

    def __repr__(self) -> str:
        return f"NewKey(key='…', info={self.info!r})"


class FoundKey(msgspec.Struct, frozen=True):
    """A key that somebody presented."""

    info: KeyInfo
    archived: str = ""
    """What of its is archived, in words; empty: nothing is."""


_COLUMNS = tuple(keys.c[name] for name in KeyInfo.__struct_fields__)


class Keys:
    """Callers' keys, and admins'."""

    def __init__(self, desk: Desk, teams_: Teams, tenants_: Tenants, pepper: KeptPepper) -> None:
        self._desk = desk
        self._teams = teams_
        self._tenants = tenants_
        self._pepper = pepper

    def page(
        self, *, tenant: str | None = None, over: bool = False, cursor: str | None = None, limit: int = MAX_PAGE
    ) -> Page[KeyInfo]:
        """Keys by id, of a tenant or of all and admins'; with those that are over, if wanted."""
        limit = bounded(limit)
        query = select(*_COLUMNS).order_by(keys.c.id).limit(limit + 1)
        if tenant is not None:
            query = query.where(keys.c.tenant == plain(tenant))
        if cursor is not None:
            query = query.where(keys.c.id > plain(cursor))
        if not over:
            lasting = or_(keys.c.expires_at.is_(None), keys.c.expires_at > self._desk.clock())
            query = query.where(keys.c.revoked_at.is_(None), lasting)
        with self._desk.store.reading() as connection:
            return cut([_info(row) for row in connection.execute(query)], limit, lambda one: one.id)

    def get(self, id: str) -> KeyInfo:
        """One of them, over or not. Raises UnknownAccount."""
        with self._desk.store.reading() as connection:
            return _find(connection, id)

    def create(
        self,
        tenant: str,
        *,
        by: str,
        team: str | None = None,
        name: str = "",
        expires_at: float | None = None,
        once: str | None = None,
    ) -> NewKey:
        """A key for a tenant, be it the file's or the store's. Raises AccountError.

        ``once`` names what ``by`` asks for: asked a second time, it is refused, for a key cannot be shown again.
        """
        require_text("a key's title", name, empty=True)
        self._require_ahead(expires_at)
        made = self._new(KeyInfo(name=name, tenant=tenant, team=team, expires_at=expires_at, **_BLANK), by, once)
        with self._desk.log.changing(by) as change:
            self._tenants.require(change.connection, tenant)
            if team is not None:
                self._teams.require(change.connection, tenant, team)
            return self._insert(change, made, "key.create")

    def create_admin(
        self, role: Role, *, by: str, name: str = "", expires_at: float | None = None, once: str | None = None
    ) -> NewKey:
        """A key for the admin API; ``once`` as for ``create``. Raises AccountError."""
        require_text("a key's title", name, empty=True)
        self._require_ahead(expires_at)
        made = self._new(KeyInfo(name=name, role=role, expires_at=expires_at, **_BLANK), by, once)
        with self._desk.log.changing(by) as change:
            return self._insert(change, made, "key.create")

    def rotate(
        self,
        id: str,
        *,
        by: str,
        overlap_s: float = 0.0,
        expires_at: float | None = None,
        once: str | None = None,
        check: Check[KeyInfo] = unchecked,
    ) -> NewKey:
        """Another key in a key's place, which goes on opening for ``overlap_s`` seconds, if it does so long.

        Budgets and limits of the key are shared by both. ``expires_at`` is the new one's; ``once`` as for ``create``.
        Raises AccountError.
        """
        if not 0 <= overlap_s <= MAX_OVERLAP_S:
            raise AccountError(f"an overlap is at least 0 s and at most {MAX_OVERLAP_S / 86_400:g} days.")
        self._require_ahead(expires_at)
        old = self.get(id)
        made = self._new(msgspec.structs.replace(old, expires_at=expires_at, last_used_at=None), by, once)
        with self._desk.log.changing(by) as change:
            _refuse_made(change, made)
            before = self._lasting(change, id, check)
            ends = min(change.at + overlap_s, math.inf if before.expires_at is None else before.expires_at)
            self._set(change, "key.expire", before, expires_at=ends)
            return self._insert(change, made, "key.rotate")

    def expire(self, id: str, at: float | None, *, by: str, check: Check[KeyInfo] = unchecked) -> KeyInfo:
        """Have a key open nothing from an instant on; ``None``: it lasts. Raises AccountError."""
        self._require_ahead(at)
        with self._desk.log.changing(by) as change:
            return self._set(change, "key.expire", self._lasting(change, id, check), expires_at=at)

    def revoke(self, id: str, *, by: str, check: Check[KeyInfo] = unchecked) -> KeyInfo:
        """Have a key open nothing from now on, for ever. Raises UnknownAccount."""
        with self._desk.log.changing(by) as change:
            before = _find(change.connection, id)
            check(before)
            return before if before.revoked_at else self._set(change, "key.revoke", before, revoked_at=change.at)

    def find(self, key: bytes) -> FoundKey | None:
        """What a key stands for, over or not; ``None``: it is none of ours. Raises StorageError."""
        digest = self.digest(key)
        return None if digest is None else self.find_digest(digest)

    def digest(self, key: bytes) -> bytes | None:
        """By which the store knows a key; ``None``: it was never ours. Raises StorageError."""
        pepper = self.pepper()
        return None if pepper is None else pepper.digest(key)

    def pepper(self) -> Pepper | None:
        """What keys are made and recognised with; ``None``: there is no key yet. Raises StorageError."""
        return self._pepper.get()

    def find_digest(self, digest: bytes) -> FoundKey | None:
        """What the key of a digest stands for; ``None``: it is none of ours. Raises StorageError."""
        joined = keys.outerjoin(tenants, tenants.c.id == keys.c.tenant).outerjoin(
            teams, and_(teams.c.tenant == keys.c.tenant, teams.c.id == keys.c.team)
        )
        columns = (
            *_COLUMNS,
            keys.c.hash,
            tenants.c.archived_at.label("tenant_gone"),
            teams.c.archived_at.label("team_gone"),
        )
        with self._desk.store.reading() as connection:
            row = connection.execute(select(*columns).select_from(joined).where(keys.c.hash == digest)).first()
        if row is None or not hmac.compare_digest(bytes(row.hash), digest):
            return None
        of_file = row.tenant in self._desk.from_file.tenants
        archived = "team" if row.team_gone else "tenant" if row.tenant_gone and not of_file else ""
        return FoundKey(_info(row), archived)

    def mark_used(self, used: Mapping[str, float]) -> None:
        """Keep when keys were last used, by id. Raises StorageError."""
        if used:
            newer = or_(keys.c.last_used_at.is_(None), keys.c.last_used_at < bindparam("at"))
            statement = update(keys).where(keys.c.id == bindparam("key"), newer).values(last_used_at=bindparam("at"))
            with self._desk.store.writing() as connection:
                connection.execute(statement, [{"key": id, "at": at} for id, at in sorted(used.items())])

    def _require_ahead(self, expires_at: float | None) -> None:
        if expires_at is not None and not self._desk.clock() < expires_at < math.inf:
            raise AccountError("a key cannot expire in the past: name a later time, or revoke it.")

    def _new(self, wanted: KeyInfo, by: str, once: str | None) -> NewKey:
        """A key like ``wanted``, not stored yet. The pepper's own transaction must not be inside of another."""
        key = self._pepper.get_or_make().new_key()
        named = secrets.token_bytes(6) if once is None else hashlib.sha256(f"{by}\0{once}".encode()).digest()[:6]
        id = f"k-{named.hex()}"
        return NewKey(key, msgspec.structs.replace(wanted, id=id, lineage=wanted.lineage or id, last4=key[-4:]))

    def _insert(self, change: Change, made: NewKey, action: str) -> NewKey:
        _refuse_made(change, made)
        info = msgspec.structs.replace(made.info, created_at=change.at, created_by=change.by)
        row = msgspec.structs.asdict(info) | {"hash": self.digest(made.key.encode())}
        change.connection.execute(insert(keys).values(row))
        change.note(action, f"key:{info.id}", None, info)
        return NewKey(made.key, info)

    def _lasting(self, change: Change, id: str, check: Check[KeyInfo]) -> KeyInfo:
        found = _find(change.connection, id)
        check(found)
        if found.is_over(change.at):
            state = "revoked" if found.revoked_at is not None else "expired"
            raise AccountConflict(f"key {id} is {state} already; make a new one.")
        return found

    def _set(self, change: Change, action: str, before: KeyInfo, **changes: float | None) -> KeyInfo:
        after = msgspec.structs.replace(before, **changes)
        change.connection.execute(update(keys).where(keys.c.id == before.id).values(changes))
        change.note(action, f"key:{before.id}", before, after)
        return after


_BLANK: dict[str, Any] = {"id": "", "lineage": "", "last4": "", "created_at": 0.0, "created_by": ""}
"""What is known of a key once it is stored."""


def _refuse_made(change: Change, made: NewKey) -> None:
    """Refuse what was asked for once already. Raises AccountConflict."""
    id = made.info.id
    if change.connection.execute(select(keys.c.id).where(keys.c.id == id)).first():
        raise AccountConflict(f"this was asked for already, and made key {id}, which is shown once: rotate it.")


def _find(connection: Connection, id: str) -> KeyInfo:
    row = connection.execute(select(*_COLUMNS).where(keys.c.id == plain(id))).first()
    if row is None:
        raise UnknownAccount(f"there is no key {shown(id)} in the store. Give its id, as `amaru keys list` shows it.")
    return _info(row)


def _info(row: Row[Any]) -> KeyInfo:
    values = {name: row._mapping[name] for name in KeyInfo.__struct_fields__}
    return KeyInfo(**values | {"role": None if values["role"] is None else Role(values["role"])})
