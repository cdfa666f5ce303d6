"""What is kept of answers that could not be read: the latest ones, for a while, and not a moment longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from amaru.domain import Kind
from amaru.providers.unread import KEPT_S, UnreadAnswers


@pytest.fixture
def answers() -> UnreadAnswers:
    return UnreadAnswers()


class Clock:
    """The loop's, which stands still but for what a test adds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._now = loop.time()

    def __call__(self) -> float:
        return self._now

    async def after(self, passed_s: float) -> None:
        self._now += passed_s
        for _ in range(5):  # timers that are due have their turns
            await asyncio.sleep(0)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clock]:
    loop = asyncio.get_running_loop()
    with monkeypatch.context() as patched:
        made = Clock(loop)
        patched.setattr(loop, "time", made)
        yield made


async def test_the_latest_of_each_kind_is_kept_whole_and_streamed(answers: UnreadAnswers) -> None:
    for body in (b"first", b"second"):
        answers.keep("a", Kind.CHAT, body)
        answers.keep("a", Kind.CHAT, body, stream=True)
        answers.keep("a", Kind.EMBEDDING, body)
    answers.keep("b", Kind.CHAT, b"of another")
    assert {(one.kind, one.stream, one.body) for one in answers.of("a")} == {
        (Kind.CHAT, False, b"second"), (Kind.CHAT, True, b"second"), (Kind.EMBEDDING, False, b"second"),
    }  # fmt: skip
    assert (len(answers), answers.of("c")) == (4, ())


async def test_what_is_too_old_is_let_go_of_also_where_nobody_asks(answers: UnreadAnswers, clock: Clock) -> None:
    answers.keep("a", Kind.CHAT, b"early")
    await clock.after(400.0)
    answers.keep("a", Kind.EMBEDDING, b"late")
    answers.keep("b", Kind.CHAT, b"late")
    await clock.after(KEPT_S - 401.0)
    assert len(answers) == 3
    await clock.after(2.0)
    assert len(answers) == 2
    assert [one.body for one in answers.of("a")] == [b"late"]
    await clock.after(400.0)
    assert len(answers) == 0
    answers.keep("a", Kind.CHAT, b"later still")
    assert len(answers) == 1
    await clock.after(KEPT_S + 1.0)
    assert len(answers) == 0


async def test_what_is_replaced_all_the_time_is_kept(answers: UnreadAnswers, clock: Clock) -> None:
    for number in range(10):
        answers.keep("a", Kind.CHAT, str(number).encode())
        await clock.after(KEPT_S / 2.0)
    assert [one.body for one in answers.of("a")] == [b"9"]
