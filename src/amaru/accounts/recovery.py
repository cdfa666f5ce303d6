"""What a dead process left is taken to the bank by whoever finds it: the last turn of that holder."""

from __future__ import annotations

from pathlib import Path

import msgspec

from amaru.accounts import purses
from amaru.accounts.bank import TAKEOVER_STEP, Bank, Ended, Part, Position, Turn
from amaru.accounts.charges import ChargeStatus
from amaru.accounts.journal import Folder, Left, abandoned, read
from amaru.errors import JournalError
from amaru.files.whole import remedied


def last_turn(left: Left, position: Position) -> Turn:
    """What a dead holder has yet to say: how its requests ended, and that those without an end stand.

    Everything else of its leases goes back, unless its journal may lack something: then they stand. Said twice, it
    changes nothing.
    """
    number = max(position.through, left.ended[-1].number if left.ended else 0)
    standing = [
        Ended(
            number + at,
            id,
            msgspec.structs.replace(dispatched.charge, status=ChargeStatus.STANDING),
            tuple(Part(part.key, part.reserved, None) for part in dispatched.parts),
        )
        for at, (id, dispatched) in enumerate(left.open.items(), 1)
    ]
    return Turn(
        holder=left.holder,
        number=position.turn + TAKEOVER_STEP,
        ended=[*left.ended, *standing],
        counters=left.counters,
        whole=left.whole,
    )


def recover(folder: Folder, bank: Bank, boot: str) -> str:
    """Take to the bank what lies in a folder that this process has locked, and remove its journal.

    Gives back what somebody should know of it; empty: nothing. Raises StorageError and OSError; the journal stays.
    """
    left = read(folder.journal, boot=boot)
    if not left.holder:
        folder.journal.rename(folder.path / "journal.unreadable")
        return f"{folder.journal} cannot be read and was set aside: what its process leased stands"
    bank.turn(last_turn(left, bank.position(left.holder)))
    (folder.path / purses.NAME).unlink(missing_ok=True)  # first: what the bank has is no longer spent without it
    folder.journal.unlink()
    if left.whole:
        return ""
    return (
        f"{folder.journal}: the machine was started anew, or its disk damaged it, since {left.holder} wrote it:"
        " what it leased stands until it is released"
    )


def recover_all(root: Path, bank: Bank, boot: str) -> list[str]:
    """Recover every folder whose process is dead; gives back what somebody should know. Raises StorageError."""
    said = []
    try:
        for folder in abandoned(root):
            try:
                said.append(recover(folder, bank, boot))
            finally:
                folder.close()
    except OSError as error:
        raise JournalError(f"{root}: {remedied(error)}") from None
    return [words for words in said if words]
