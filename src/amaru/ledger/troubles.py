"""What can go wrong where a proof is asked of someone else: a time-stamping authority, gpg, a URL that takes anchors.

Who asks again decides by the trouble how soon: a network heals by itself, a wrong passphrase or a refused request does
not.
"""

from __future__ import annotations

import enum

from amaru.errors import LedgerError


class Trouble(enum.Enum):
    """Kinds of trouble, by who can end it."""

    NETWORK = "network"
    """Not reached, too slow, or busy: it may work in a while."""
    AUTHENTICATION = "authentication"
    """Who asks is not known or not allowed: a key, a passphrase or a credential is missing or wrong."""
    VALIDATION = "validation"
    """The request, the answer or the settings are wrong: someone must change something."""


class AnchorError(LedgerError):
    """A signature, a time-stamp or an anchor was not got; ``trouble`` says of which kind the reason is."""

    def __init__(self, message: str, trouble: Trouble) -> None:
        super().__init__(message)
        self.trouble = trouble
