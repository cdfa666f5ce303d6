"""Events of a stream that are held back until their piece of the answer is whole (``Hold`` says which)."""

from __future__ import annotations

from amaru.protocols.openai import Hold

MAX_HELD_BYTES = 64 * 1024 * 1024
"""As of a whole answer; a stream that needs more is malformed."""
_REST = -1
"""The piece of what belongs to no choice alone, and of everything where nothing is handed on by the choice."""


class Holder:
    """Holds events back, by piece, and gives them out in order when their piece is whole.

    Attributes
    ----------
    ready
        Events whose piece is whole, to be handed on; emptied by ``take``.
    size_bytes
        Of all events that were held so far.
    """

    __slots__ = ("_hold", "_pieces", "_whole", "ready", "size_bytes")

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self._pieces: dict[int, list[bytes]] = {}
        self._whole: set[int] = set()
        self.ready: list[bytes] = []
        self.size_bytes = 0

    @property
    def whole_choices(self) -> frozenset[int]:
        """The choices that were given out whole."""
        return frozenset(self._whole)

    def keep(self, data: bytes, choices: list[int], finished: dict[int, str], *, all_finished: bool) -> None:
        """Hold the event with this ``data`` back, and make ready what it makes whole.

        ``choices`` are those that the event speaks of, ``finished`` those that have their finish reason, and
        ``all_finished`` tells whether these are all that began.
        """
        self.size_bytes += len(data)
        if self._hold is Hold.CHOICES and len(choices) > 1:
            self._hold = Hold.ALL  # this provider does not keep its choices apart
        if self._hold is Hold.CHOICES:
            piece = choices[0]
            self._pieces.setdefault(piece, []).append(_event(data))
            if piece in finished:
                self.ready += self._pieces.pop(piece)
                self._whole.add(piece)
            return
        self._pieces.setdefault(_REST, []).append(_event(data))
        if self._hold is Hold.CALLS and all_finished:
            self.ready += self._pieces.pop(_REST)
            self._whole |= finished.keys()

    def keep_rest(self, data: bytes) -> None:
        """Hold an event that belongs to no choice, such as the usage: it goes out behind what is held now."""
        self.size_bytes += len(data)
        if self._pieces or self._hold is Hold.ALL:
            self._pieces.setdefault(_REST, []).append(_event(data))
        else:
            self.ready.append(_event(data))

    def let_go(self) -> bytes:
        """The stream is whole: everything that is still held."""
        for piece in self._pieces.values():
            self.ready += piece
        self._pieces.clear()
        return self.take()

    def take(self) -> bytes:
        """What is ready, once."""
        events = b"".join(self.ready)
        self.ready.clear()
        return events


def _event(data: bytes) -> bytes:
    """One event of one line. Data of several lines is JSON between whose tokens a line ends: it means nothing there."""
    return b"data: %b\n\n" % data.replace(b"\n", b" ").strip()
