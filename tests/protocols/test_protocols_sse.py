"""Event streams, by the WHATWG standard, however they arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amaru.protocols.sse import BOM, Event, EventSplitter, EventTooLargeError, parse_event


def split(*chunks: bytes) -> tuple[list[bytes], bytes]:
    splitter = EventSplitter()
    blocks = [block for chunk in chunks for block in splitter.feed(chunk)]
    return blocks, splitter.rest


def events(*chunks: bytes) -> list[Event]:
    """The events that mean something, so that empty blocks (which depend on the chunks) do not count."""
    return [event for block in split(*chunks)[0] if (event := parse_event(block)) != Event()]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_line_ends(end: bytes) -> None:
    stream = b": hello\ndata: a\n\nevent: e\ndata:b\ndata:  c\nid: 7\nretry: 100\n\ndata\n\nid\nother: x\n\n"
    assert events(stream.replace(b"\n", end)) == [
        Event(data=b"a"),
        Event(data=b"b\n c", event=b"e", id=b"7", retry_ms=100),
        Event(data=b""),
        Event(id=b""),
    ]


def test_fields_that_do_not_count() -> None:
    assert parse_event(b"retry: 1.5\nid: a\0b\nDATA: x\n data: y\n\n") == Event()
    assert parse_event(b":comment only\n\n") == Event()


def test_a_byte_order_mark_is_no_part_of_the_first_field() -> None:
    assert events(BOM + b"data: a\n\n") == [Event(data=b"a")]
    assert events(BOM[:1], BOM[1:], b"data: a\n\n") == [Event(data=b"a")]
    assert split(BOM + b"data: a") == ([], b"data: a")


def test_a_byte_order_mark_counts_only_at_the_very_start() -> None:
    later = BOM + b"data: b\n\n"
    assert split(b"data: a\n\n", later, BOM) == ([b"data: a\n\n", later], BOM)
    assert events(b"data: a\n\n" + later, BOM + later) == [Event(data=b"a")]


def test_blocks_are_verbatim_and_the_rest_is_kept() -> None:
    assert split(b"data: a\r\n\r\n", b"\n\ndata: b\r\rdata: c\n") == (
        [b"data: a\r\n\r\n", b"\n\n", b"data: b\r\r"],
        b"data: c\n",
    )


def test_an_event_without_end_is_not_kept_forever() -> None:
    splitter = EventSplitter(max_event_bytes=100)
    assert splitter.feed(b"data: " + b"x" * 90) == []
    with pytest.raises(EventTooLargeError):
        splitter.feed(b"x" * 10)


def test_a_large_event_in_small_pieces_takes_linear_time() -> None:
    splitter = EventSplitter()
    for _ in range(2000):
        assert splitter.feed(b"data: x" * 100 + b"\n") == []
    assert len(splitter.feed(b"\n")) == 1


pieces = st.sampled_from(
    [b"\n", b"\r", b"\r\n", b"\n\n", b"data: ", b"data", b":", b" ", b"event: x", b"id: 1", b"retry: 5", "é😀".encode()]
)  # fmt: skip


@given(st.lists(pieces, max_size=30).map(b"".join), st.data())
def test_any_chunks_give_the_same_events(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    blocks, rest = split(*chunks)
    assert b"".join(blocks) + rest == stream
    assert events(*chunks) == events(stream) == reference(stream)
    assert events(*[bytes([byte]) for byte in stream]) == events(stream)


def reference(stream: bytes) -> list[Event]:
    """The standard's own algorithm, line by line, over the whole stream."""
    lines = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]
    found: list[Event] = []
    event = Event()
    for line in lines:
        if not line:
            if event != Event():
                found.append(event)
            event = Event()
            continue
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if name == b"data":
            event.data = value if event.data is None else event.data + b"\n" + value
        elif name == b"event":
            event.event = value
        elif name == b"id":
            event.id = value
        elif name == b"retry" and value.isdigit():
            event.retry_ms = int(value)
    return found
