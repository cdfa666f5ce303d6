"""The feed: every listener gets every event in order, and none can hold it up."""

from __future__ import annotations

import asyncio

from amaru.mesh.feed import MAX_LISTENERS, MAX_WAITING, Feed


async def test_every_listener_gets_what_happens_from_then_on_in_order() -> None:
    feed = Feed()
    feed.tell("pattern", 0)
    one, two = feed.listen(), feed.listen()
    assert one is not None
    assert two is not None
    feed.tell("pattern", 1)
    feed.tell("healing", 2)
    for listener in (one, two):
        assert [(event.kind, event.data) for event in [await listener.next(), await listener.next()] if event] == [
            ("pattern", 1),
            ("healing", 2),
        ]


async def test_a_listener_that_waits_is_woken() -> None:
    feed = Feed()
    listener = feed.listen()
    assert listener is not None
    waiting = asyncio.ensure_future(listener.next())
    await asyncio.sleep(0)
    feed.tell("field", {"Psi": 0.8})
    event = await waiting
    assert event is not None
    assert (event.id, event.data) == (1, {"Psi": 0.8})


async def test_one_that_reads_too_slowly_is_dropped_and_the_others_are_not() -> None:
    feed = Feed()
    slow, quick = feed.listen(), feed.listen()
    assert slow is not None
    assert quick is not None
    for number in range(MAX_WAITING + 1):
        feed.tell("pattern", number)
        assert await quick.next() is not None
    assert slow.dropped
    assert await slow.next() is None
    assert (feed.dropped, len(feed)) == (1, 1)


async def test_at_the_end_what_waits_still_comes_and_then_nothing() -> None:
    feed = Feed()
    listener = feed.listen()
    assert listener is not None
    feed.tell("pattern", 1)
    feed.close()
    assert await listener.next() is not None
    assert await listener.next() is None
    late = feed.listen()
    assert late is not None
    assert await late.next() is None


async def test_listeners_are_bounded_and_make_room_when_they_leave() -> None:
    feed = Feed()
    listeners = [feed.listen() for _ in range(MAX_LISTENERS)]
    assert feed.listen() is None
    assert listeners[0] is not None
    feed.leave(listeners[0])
    assert feed.listen() is not None
