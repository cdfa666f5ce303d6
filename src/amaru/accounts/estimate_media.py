"""What the images, sounds and files of a chat may count as, by the most that providers document."""

from __future__ import annotations

import base64
import binascii

import msgspec
from msgspec import Raw, Struct

from amaru.protocols.openai import TEXT_PARTS, Referring

MAX_IMAGE_TOKENS = 48_169
"""Of one image, where the offer does not say: gpt-4o-mini's eight tiles of 5,667 and 2,833 once (OpenAI, "Images and
vision"), the most that any provider documents."""
AUDIO_BYTES_PER_TOKEN = 12
"""Of base64: 32 tokens a second (Gemini, "Audio understanding"; OpenAI's are 10) of the leanest speech codec in use,
at 3 kbit/s."""

_IMAGE_PARTS = frozenset(("image_url", "input_image", "image"))
_HEAD_CHARS = 16
"""Of base64, by which a sound's format is told: twelve bytes."""


class Media(Struct, gc=False):
    """What a chat holds besides text."""

    bytes: int = 0
    """Of its JSON, which is none of the prompt's text."""
    images: int = 0
    audio_tokens: int = 0
    reads_more: bool = False
    """Something of it is read from elsewhere, or is of no known kind: nothing in the request says its size."""


class _Said(Referring, gc=False):
    content: str | list[Raw] | None = None


class _Part(Struct, gc=False):
    type: str = ""


class _Sound(Struct, gc=False):
    data: str = ""


class _SoundPart(Struct, gc=False):
    input_audio: _Sound


_read_messages = msgspec.json.Decoder(list[_Said]).decode
_read_part = msgspec.json.Decoder(_Part).decode
_read_sound = msgspec.json.Decoder(_SoundPart).decode


def media_of(messages: Raw) -> Media:
    """All that ``messages``, of a request that was checked, hold besides text."""
    media = Media()
    for said in _read_messages(messages):
        if said.refers:
            media.reads_more = True
        for part in said.content if isinstance(said.content, list) else ():
            kind, size = _read_part(part).type, len(memoryview(part))
            if kind in TEXT_PARTS:
                continue
            if kind in _IMAGE_PARTS:
                media.bytes += size
                media.images += 1
            elif kind == "input_audio" and _grows_by_bytes(part):
                media.bytes += size
                media.audio_tokens += -(-size // AUDIO_BYTES_PER_TOKEN)
            else:
                media.reads_more = True
    return media


def _grows_by_bytes(part: Raw) -> bool:
    """Whether a sound stands in the request itself, in a format of which each second takes bytes: WAVE and MPEG.

    Of others (FLAC, Opus) an hour of silence takes next to none.
    """
    try:
        data = _read_sound(part).input_audio.data
    except msgspec.ValidationError:
        return False
    if data.startswith("data:"):
        data = data.partition(",")[2]
    try:
        head = base64.b64decode(data[:_HEAD_CHARS], validate=True)
    except (binascii.Error, ValueError):
        return False
    if head[:4] == b"RIFF":
        return head[8:12] == b"WAVE"
    return head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0)
