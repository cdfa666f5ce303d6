"""One process of many that look at one budget, and send what they notice, until their input ends.

    python alert_program.py STORE_URL WEBHOOK_URL AMOUNT

Prints ``ready``, then how many messages it delivered.
"""

from __future__ import annotations

import sys
import threading

from directory_samples import budget
from hook_server import SECRET

from amaru.accounts.alerting import Alerting
from amaru.accounts.allowances import Scope
from amaru.accounts.periods import Period
from amaru.accounts.store import Store
from amaru.accounts.webhooks import Hook


def main(store_url: str, url: str, amount: str) -> None:
    store = Store(store_url, busy_timeout_s=60.0)
    store.open()
    shares = tuple(share / 10 for share in range(1, 11))
    watched = budget(Scope.TENANT, "acme", period=Period.TOTAL, amount=int(amount), alerts=shares)
    alerting = Alerting(store, lambda: [watched])
    alerting.take(Hook(url, [SECRET]))
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    print("ready", flush=True)
    while not ended.is_set():
        alerting.round()
    print(alerting.results["delivered"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
