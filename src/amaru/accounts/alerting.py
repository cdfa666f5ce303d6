"""Alerts, from a budget that is used up to a webhook that was told: on a thread of its own, so that nothing waits.

A message that fails ends the round: they all go to the same place, and one that hangs costs no more than its time
limit every few seconds. Where there is no webhook, alerts stand in the log and in the listing alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from amaru.accounts.alerts import Alert, Fill, Lookout
from amaru.accounts.allowances import Allowance, format_amount
from amaru.accounts.outbox import TRIES, Message, Outbox
from amaru.accounts.store import Store
from amaru.accounts.webhooks import Hook
from amaru.errors import StorageError
from amaru.http1.posting import PostError
from amaru.telemetry.logs import get_logger

EVERY_S = 5.0
CLOSE_S = 2.0
"""Whoever ends waits no longer for a message under way; another process sends it again."""
RESULTS = ("delivered", "failed", "given_up")

log = get_logger("accounts")


class Alerting:
    """Looks at budgets and sends what is to be told.

    Parameters
    ----------
    store
        Whose budgets; it may be opened later.
    allowances
        Gives those of now; may raise StorageError.
    clock
        Unix seconds.
    every_s
        Between two looks.
    outbox
        By default that of ``store``.

    Attributes
    ----------
    results
        How messages fared that this process sent: ``delivered``, ``failed`` and tried again, ``given_up``.
    on_result
        Called with each of these words, on the thread that sends.
    """

    def __init__(
        self,
        store: Store,
        allowances: Callable[[], Iterable[Allowance]],
        *,
        clock: Callable[[], float] = time.time,
        every_s: float = EVERY_S,
        outbox: Outbox | None = None,
    ) -> None:
        self.results = dict.fromkeys(RESULTS, 0)
        self.on_result: Callable[[str], None] = lambda _result: None
        self._allowances = allowances
        self._clock = clock
        self._every_s = every_s
        self._lookout = Lookout(store, clock=clock)
        self._outbox = outbox or Outbox(store, clock=clock)
        self._hook: Hook | None = None
        self._failure = ""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="amaru-alerts", daemon=True)

    @property
    def fills(self) -> Sequence[Fill]:
        """How far budgets are used, as seen last."""
        return self._lookout.fills

    def take(self, hook: Hook | None) -> None:
        """Send to this one from now on; ``None``: to none."""
        self._hook = hook

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; a message under way is waited for, a little. Idempotent."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)

    def round(self) -> None:
        """Look once, and send what is due until one fails. Raises StorageError."""
        hook = self._hook
        for alert in self._lookout.look(self._allowances(), is_sent=hook is not None):
            _tell(alert)
        while hook is not None and not self._ending.is_set() and (message := self._outbox.claim()) is not None:
            if not self._send(hook, message):
                break

    def _send(self, hook: Hook, message: Message) -> bool:
        try:
            hook.send(message.webhook_id, message.body.encode(), self._clock())
        except PostError as error:
            goes_on = self._outbox.failed(message, error)
            self._count("failed" if goes_on else "given_up")
            if goes_on:
                log.warning("alert_not_sent", alert=message.id, tries=message.tries, of=TRIES, reason=str(error))
            else:
                remedy = f"mend the webhook, then: amaru budgets alerts --retry {message.id}"
                log.error("alert_given_up", alert=message.id, tries=message.tries, reason=str(error), remedy=remedy)
            return False
        self._count("delivered")
        self._outbox.delivered(message)
        return True

    def _count(self, result: str) -> None:
        self.results[result] += 1
        self.on_result(result)

    def _run(self) -> None:
        while not self._ending.wait(self._every_s):
            try:
                self.round()
            except StorageError as error:
                if not self._failure:
                    log.error("alerts_wait", reason=str(error), remedy="nothing is lost: they are told once it works")
                self._failure = str(error)
            except Exception as error:  # the next look must come
                log.error("alerts_failed", error=type(error).__name__, reason=str(error))
            else:
                if self._failure:
                    log.info("alerts_go_on")
                self._failure = ""


def _tell(alert: Alert) -> None:
    fill = alert.fill
    allowance = fill.allowance
    log.warning(
        alert.event.replace(".", "_"),
        budget=allowance.id,
        share=alert.share,
        amount=format_amount(allowance.metric, allowance.amount),
        used=format_amount(allowance.metric, fill.used),
        hard=allowance.hard,
    )
