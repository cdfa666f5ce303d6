"""Alerts reach a webhook that fails in every way there is, from processes that die in between, once each."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alert_samples import messages, use
from directory_samples import NOW, Clock, budget
from hook_server import SECRET, Receiver, receiving, verify
from prometheus_client import generate_latest

from amaru.accounts.alert_metrics import AlertCollector
from amaru.accounts.alerting import Alerting
from amaru.accounts.allowances import Allowance, Scope
from amaru.accounts.changes import ChangeLog
from amaru.accounts.outbox import CLAIM_S, LONGEST_WAIT_S, TRIES, Outbox, retry, wait_s
from amaru.accounts.periods import Period
from amaru.accounts.retention import RETENTION_S, prune
from amaru.accounts.store import Store
from amaru.accounts.webhooks import Hook
from amaru.errors import AccountConflict, StorageError, UnknownAccount
from amaru.http1.posting import PostError
from amaru.telemetry.metrics import Metrics

BUDGET = budget(Scope.TENANT, "acme", period=Period.TOTAL, amount=1_000, alerts=(0.5, 1.0))
PROGRAM = Path(__file__).with_name("alert_program.py")
DAY_S = 86_400.0


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@pytest.fixture(autouse=True)
def _heed_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """On PostgreSQL too, whose own clock nobody can set."""
    for name in ("alerts", "outbox"):
        monkeypatch.setattr(f"amaru.accounts.{name}.read_now", lambda _connection, at: at)


class Process:
    """What one process does, on the test's own thread and by its clock."""

    def __init__(self, store: Store, clock: Clock, url: str, *, limit_s: float = 15.0) -> None:
        self.outbox = Outbox(store, clock=clock, jitter=lambda: 0.0)
        self.alerting = Alerting(store, lambda: [BUDGET], clock=clock, outbox=self.outbox)
        self.alerting.take(Hook(url, [SECRET], limit_s=limit_s))
        self.clock = clock

    def round(self, *, after_s: float = 0.0) -> None:
        self.clock.now += after_s
        self.alerting.round()


def states(store: Store) -> list[str]:
    return [message.state.value for message in messages(store)]


def test_what_is_crossed_is_delivered_signed_and_once(store: Store, clock: Clock, receiver: Receiver) -> None:
    process = Process(store, clock, receiver.url)
    use(store, BUDGET, NOW, 1_000)
    process.round()
    process.round()
    assert [body["data"]["share"] for body in receiver.documents()] == [0.5, 1.0]
    assert all(verify(SECRET, headers, body) for headers, body in receiver.got)
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 2
    assert states(store) == ["delivered"] * 2
    assert process.alerting.results == {"delivered": 2, "failed": 0, "given_up": 0}


@pytest.mark.parametrize("word", ["500", "404", "close", "redirect", "flood", "hang"])
def test_a_webhook_that_fails_is_tried_again_later_under_the_same_id(
    store: Store, clock: Clock, receiver: Receiver, word: str
) -> None:
    process = Process(store, clock, receiver.url, limit_s=0.3 if word == "hang" else 15.0)
    receiver.script.extend([word, word])
    use(store, BUDGET, NOW, 500)
    process.round()
    process.round(after_s=wait_s(1, 0.0) - 0.1)
    assert len(receiver.got) == 1, "it is left in peace for a while"
    process.round(after_s=0.2)
    process.round(after_s=wait_s(2, 0.0))
    assert [message.state for message in messages(store)] == ["delivered"]
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    stamps = [int(headers["webhook-timestamp"]) for headers, _ in receiver.got]
    assert stamps == sorted(set(stamps)), "each try says when it was made"
    assert process.alerting.results == {"delivered": 1, "failed": 2, "given_up": 0}


def test_after_about_a_day_it_is_given_up_and_said_so(
    store: Store, clock: Clock, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(store, clock, "http://127.0.0.1:9/hooks/t0ken-of-the-hook")
    use(store, BUDGET, NOW, 500)
    tries = 0
    while states(store) in ([], ["pending"]):
        process.round(after_s=wait_s(tries, 0.0) if tries else 0.0)
        tries += 1
    (message,) = messages(store)
    assert (tries, message.tries, message.state) == (TRIES, TRIES, "given_up")
    assert 0.9 * DAY_S < clock.now - NOW < 1.1 * DAY_S
    assert message.error is not None
    assert "127.0.0.1:9/… cannot be reached" in message.error
    assert caplog.text.count("alert_given_up") == 1
    assert f"amaru budgets alerts --retry {message.id}" in caplog.text
    assert "t0ken" not in caplog.text
    assert process.alerting.results == {"delivered": 0, "failed": TRIES - 1, "given_up": 1}
    process.round(after_s=10 * DAY_S)
    assert messages(store) == [message]
    log = ChangeLog(store, clock)
    with log.changing("me") as change:
        retry(change, message.id)
    process.alerting.take(Hook(receiver.url, [SECRET]))
    process.round()
    assert states(store) == ["delivered"]
    for id, refused in ((message.id, AccountConflict), (99, UnknownAccount)):
        with pytest.raises(refused), log.changing("me") as change:
            retry(change, id)


def test_a_receiver_that_wants_no_more_or_to_be_asked_later_is_heeded(
    store: Store, clock: Clock, receiver: Receiver
) -> None:
    receiver.script.extend(["busy 120", "410"])
    process = Process(store, clock, receiver.url)
    use(store, BUDGET, NOW, 500)
    process.round()
    process.round(after_s=119)
    assert len(receiver.got) == 1
    process.round(after_s=2)
    assert states(store) == ["given_up"]


def test_one_that_hangs_costs_one_try_a_round_and_keeps_nothing_from_being_noticed(
    store: Store, clock: Clock, receiver: Receiver
) -> None:
    receiver.script.extend(["hang"] * 10)
    process = Process(store, clock, receiver.url, limit_s=0.1)
    use(store, BUDGET, NOW, 2_000)
    process.round()
    assert len(receiver.got) == 1
    assert states(store) == ["pending"] * 3


def test_a_message_is_one_processs_until_its_claim_ends(store: Store, clock: Clock, receiver: Receiver) -> None:
    one, other = (Process(store, clock, receiver.url).outbox for _ in range(2))
    use(store, BUDGET, NOW, 500)
    Alerting(store, lambda: [BUDGET], clock=clock).round()
    assert states(store) == ["logged"]
    with ChangeLog(store, clock).changing("me") as change:
        retry(change, messages(store)[0].id)
    claimed = one.claim()
    assert claimed is not None
    assert other.claim() is None
    clock.now += CLAIM_S
    again = other.claim()
    assert again is not None
    assert (again.webhook_id, again.tries) == (claimed.webhook_id, 2)
    one.failed(claimed, PostError("too late"))
    (message,) = messages(store)
    assert (message.next_at, message.error) == (clock.now + CLAIM_S, None), "the claim is the other's now"
    other.delivered(again)
    one.failed(claimed, PostError("too late"))
    assert states(store) == ["delivered"]


@pytest.mark.parametrize("jump_s", [-400 * DAY_S, 400 * DAY_S])
def test_a_clock_that_jumps_delays_nothing_for_long(
    store: Store, clock: Clock, receiver: Receiver, jump_s: float
) -> None:
    receiver.script.append("500")
    process = Process(store, clock, receiver.url)
    use(store, BUDGET, NOW, 500)
    process.round()
    process.round(after_s=jump_s)
    assert states(store) == ["delivered"]
    assert len(receiver.got) == 2


def test_what_was_sent_and_could_not_be_noted_is_sent_again_under_the_same_id(
    store: Store, clock: Clock, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(store, clock, receiver.url)
    use(store, BUDGET, NOW, 500)

    def full(_: object) -> None:
        raise StorageError("database or disk is full")

    with monkeypatch.context() as disk:
        disk.setattr(process.outbox, "delivered", full)
        with pytest.raises(StorageError):
            process.round()
    process.round(after_s=CLAIM_S)
    assert states(store) == ["delivered"]
    assert [headers["webhook-id"] for headers, _ in receiver.got] == [messages(store)[0].webhook_id] * 2


def test_a_thread_goes_on_after_whatever_goes_wrong(store: Store) -> None:
    wrong: list[Exception] = [StorageError("gone"), ValueError("a bug")]
    went_on = threading.Event()

    def allowances() -> list[Allowance]:
        if wrong:
            raise wrong.pop()
        went_on.set()
        return []

    alerting = Alerting(store, allowances, every_s=0.001)
    alerting.start()
    assert went_on.wait(60)
    alerting.close()
    alerting.close()


def test_waits_grow_and_differ_and_are_bounded() -> None:
    assert [wait_s(tries, 0.0) for tries in (1, 2, 3)] == [5.0, 15.0, 45.0]
    assert wait_s(1, -1.0) < wait_s(1, 1.0)
    assert max(wait_s(tries, 0.0) for tries in range(1, TRIES)) == LONGEST_WAIT_S


def test_what_is_old_and_ended_is_deleted_but_for_what_never_renews(
    store: Store, clock: Clock, receiver: Receiver
) -> None:
    monthly = budget(Scope.TENANT, "acme", amount=10, alerts=(0.5,))
    for one in (BUDGET, monthly):
        use(store, one, NOW, one.amount)
        Alerting(store, lambda one=one: [one], clock=clock).round()  # type: ignore[misc]  # a lambda's default
    clock.now += RETENTION_S + 1
    prune(store, clock=clock)
    assert {message.once.split(":")[0] for message in messages(store)} == {"0"}
    Alerting(store, lambda: [BUDGET], clock=clock).round()
    assert len(messages(store)) == 2


def test_metrics_show_budgets_by_how_far_they_are_used_and_how_messages_fared(
    store: Store, clock: Clock, receiver: Receiver
) -> None:
    process = Process(store, clock, receiver.url)
    keys = budget(Scope.KEY, "k-1", amount=10, alerts=())
    process.alerting._allowances = lambda: [BUDGET, keys]  # what a reload of the budgets does
    metrics = Metrics()
    metrics.registry.register(AlertCollector(process.alerting))
    process.alerting.on_result = metrics.observe_webhook
    use(store, BUDGET, NOW, 250, 250)
    use(store, keys, NOW, 10)
    process.round()
    shown = generate_latest(metrics.registry).decode()
    assert 'amaru_budget_used_ratio{period="total",scope="tenant",subject="acme"} 0.5' in shown
    assert "k-1" not in shown
    assert 'amaru_webhooks_total{result="delivered"} 1.0' in shown
    assert 'amaru_webhooks_total{result="given_up"} 0.0' in shown


def _start(store_url: str, url: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, str(PROGRAM), store_url, url, "1000"]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_of_four_processes_one_notices_and_one_sends_each(store_url: str, receiver: Receiver) -> None:
    store = Store(store_url, busy_timeout_s=60.0)
    store.open()
    use(store, BUDGET, NOW, 0)
    processes = [_start(store_url, receiver.url) for _ in range(4)]
    for used in range(0, 1_101, 20):
        use(store, BUDGET, NOW, used)
    while sum(state == "delivered" for state in states(store)) < 11:
        assert all(process.poll() is None for process in processes)
    sent = sum(int(process.communicate("")[0]) for process in processes)
    shares = [body["data"]["share"] for body in receiver.documents()]
    assert (sent, len(shares)) == (11, 11)
    assert sorted(shares, key=lambda share: share or 2.0) == [*(share / 10 for share in range(1, 11)), None]
    store.close()


def test_one_that_is_killed_between_noticing_and_sending_is_gone_on_for(
    store: Store, store_url: str, clock: Clock, receiver: Receiver
) -> None:
    receiver.script.append("hang")
    use(store, BUDGET, NOW, 100)
    dying = _start(store_url, receiver.url)
    while not receiver.got:
        assert dying.poll() is None
    dying.kill()
    dying.communicate()
    (message,) = messages(store)
    assert (message.state, message.tries) == ("pending", 1)
    assert message.next_at is not None
    clock.now = message.next_at
    Process(store, clock, receiver.url).round()
    assert states(store) == ["delivered"]
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
