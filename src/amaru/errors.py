"""One tree of errors.

``AmaruError`` is the root. Two branches matter to most readers:

- ``Failure``: a provider failed in one of the ways of the failure taxonomy. Raised in ``providers/`` and nowhere
  else; the mesh catches it and reacts by the table in ``routing/reactions.py``.
- ``RequestError``: the caller's request cannot be served; it carries the HTTP status and OpenAI's error fields.

Messages say what was wrong, where, and what to do. They never hold a key, a prompt or a completion.
"""

from __future__ import annotations

from amaru.domain import FailureKind


class AmaruError(Exception):
    """Root of every error that amaru raises on purpose."""


class ConfigError(AmaruError):
    """A configuration that cannot be used; ``problems`` lists every mistake with path, line and remedy."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StorageError(AmaruError):
    """A store cannot be opened, read or written."""


class StaleTurn(StorageError):
    """A turn of a till's came after a later one of the same holder, and changed nothing."""


class BankGone(StorageError):
    """The accounts' store cannot be reached, and nothing can be reserved beyond what is leased already."""


class JournalError(StorageError):
    """A till's journal cannot be written or read: what it cannot note, it does not dispatch."""


class TillBusy(AmaruError):
    """Too many requests wait for a lease; the message says how many."""


class AllowanceExceeded(AmaruError):
    """A budget or a limit has too little left for a reservation.

    Attributes
    ----------
    allowance
        Its id.
    period_end
        Unix seconds at which it renews; ``None``: never.
    amount, left, needed
        In the allowance's unit (nano-USD, requests or tokens): all of it, what is free, what this one needs at most.
    """

    def __init__(self, allowance: str, period_end: int | None, *, amount: int, left: int, needed: int) -> None:
        super().__init__(f"{allowance}: {max(left, 0)} of {amount} left, {needed} needed at most")
        self.allowance = allowance
        self.period_end = period_end
        self.amount = amount
        self.left = left
        self.needed = needed


class TraceError(AmaruError):
    """A trace file cannot be read; the message names the file, the line and the column."""


class ScenarioError(AmaruError):
    """A scenario of the war-game that cannot be used; ``problems`` lists every mistake with file, place and remedy."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ReportError(AmaruError):
    """A report of a replay cannot be read or written; the message names the file and what to do."""


class ArtifactError(AmaruError):
    """A store of artifacts, or an artifact in one, cannot be used; the message names both and what to do."""


class HealthError(AmaruError):
    """A gateway's health cannot be asked for, or what it remembers not be read; the message says what to do."""


class CheckpointError(AmaruError):
    """A swarm's file or a checkpoint of a training cannot be used; the message names the file, the place in it and the
    reason."""


class AccountError(AmaruError):
    """A tenant, team, key or allowance cannot be made or changed as asked; the message says why and what to do."""


class UnknownAccount(AccountError):
    """There is no such tenant, team, key or allowance."""


class AccountConflict(AccountError):
    """What is there already is in the way: a name that is taken, a key that is revoked, what the file has."""


class LedgerError(AmaruError):
    """The ledger cannot be opened, read or written; the message names the place in it and what to do."""


class ProofError(LedgerError):
    """Something shown as evidence (a proof, a signed note, a checkpoint) does not prove what it claims."""


class LedgerBusy(LedgerError):
    """Another writer holds the log; the message names it."""


class LedgerCorrupt(LedgerError):
    """What lies in the log's store is not what was written there; the message names the first place at fault."""


class EntryPruned(LedgerError):
    """The entry's text was removed by a logged pruning; its hash remains, and all proofs of it still hold."""


class Failure(AmaruError):
    """One provider failure, as the taxonomy has it.

    Attributes
    ----------
    kind
        Its row in the taxonomy.
    status
        The provider's HTTP status, where one arrived.
    message
        In words, safe to log and to show: secrets are already removed.
    body
        The provider's own error body, for the rows whose caller sees the provider's words; else ``None``.
    retry_after_s
        Seconds after which the provider said to come back; ``None`` where it did not say.
    bytes_received
        Bytes of answer that had arrived before the failure.
    generated_bytes
        Bytes of generated text among them, where the provider had begun to answer and so bills the attempt; ``None``
        where it bills nothing, as far as one can tell. Set by ``providers/``.
    unsent
        Nothing of the request went out.
    """

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        status: int | None = None,
        body: bytes | None = None,
        retry_after_s: float | None = None,
        bytes_received: int = 0,
        unsent: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status
        self.body = body
        self.retry_after_s = retry_after_s
        self.bytes_received = bytes_received
        self.generated_bytes: int | None = None
        self.unsent = unsent or kind is FailureKind.CONNECT

    def __str__(self) -> str:
        where = f" (HTTP {self.status})" if self.status is not None else ""
        return f"{self.kind.value}{where}: {self.message}"


class RequestError(AmaruError):
    """The request cannot be served; carries what OpenAI's error object needs.

    ``status`` is the HTTP status; ``type``, ``code`` and ``param`` are OpenAI's fields; ``retry_after_s`` becomes the
    Retry-After header, ``should_retry`` x-should-retry, which OpenAI's clients obey; ``body``, where given, is the
    provider's own error object, passed on in its own words.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
        body: bytes | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.body = body
        self.type = type
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry
