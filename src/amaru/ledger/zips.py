"""ZIP archives of one encoding (APPNOTE.TXT 6.3): members stored as they are, by name, without times or extras.

What has only one encoding needs no judgement when it is read: an archive is taken apart along its local headers, packed
again, and must come out the same. So there is no bomb, no name twice, no path, no second directory, nothing hidden
between members, before the first or after the last.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping

from amaru.errors import ProofError

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCAL_MARK, _CENTRAL_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_VERSION = 20
_UNIX = 3 << 8
_STORED = 0
_MIDNIGHT, _1980_01_01 = 0, 0x21
_A_FILE = 0o100644 << 16


def pack(members: Mapping[str, bytes]) -> bytes:
    """The archive of ``members``: ASCII name → content."""
    parts: list[bytes] = []
    directory: list[bytes] = []
    offset = 0
    for name, content in sorted(members.items()):
        encoded = name.encode("ascii")
        size = len(content)
        about = (_VERSION, 0, _STORED, _MIDNIGHT, _1980_01_01, zlib.crc32(content), size, size, len(encoded), 0)
        parts += (_LOCAL.pack(_LOCAL_MARK, *about), encoded, content)
        directory += (_CENTRAL.pack(_CENTRAL_MARK, _UNIX | _VERSION, *about, 0, 0, 0, _A_FILE, offset), encoded)
        offset += _LOCAL.size + len(encoded) + size
    listing = b"".join(directory)
    end = _END.pack(_END_MARK, 0, 0, len(members), len(members), len(listing), offset, 0)
    return b"".join((*parts, listing, end))


def unpack(archive: bytes, *, known: Callable[[str], bool], most: int) -> dict[str, bytes]:
    """The members of an archive that ``pack`` made.

    Parameters
    ----------
    archive
        Its bytes; the caller bounds their number.
    known
        Whether there may be a member of that name.
    most
        How many members there may be.

    Raises
    ------
    ProofError
        ``pack`` did not make it; with what is wrong where.
    """
    members: dict[str, bytes] = {}
    at = 0
    while archive.startswith(_LOCAL_MARK, at):
        if len(archive) - at < _LOCAL.size:
            raise ProofError("the ZIP is cut off")
        _, _, flags, method, _, _, _, stored, size, name_length, extra = _LOCAL.unpack_from(archive, at)
        start = at + _LOCAL.size + name_length
        name = archive[at + _LOCAL.size : start].decode("ascii", "backslashreplace")
        if not known(name):
            raise ProofError(f"the ZIP holds {name[:80]!r}, which does not belong into it")
        if flags or extra:
            raise ProofError(f"the ZIP's {name} is encrypted, or in a form that amaru does not write")
        if method != _STORED or stored != size:
            raise ProofError(f"the ZIP's {name} is compressed; amaru stores everything as it is")
        if start + size > len(archive):
            raise ProofError(
                f"the ZIP's {name} should have {size:,} bytes, more than there are: cut off, or a false size"
            )
        if name in members:
            raise ProofError(f"the ZIP holds {name} twice")
        if len(members) == most:
            raise ProofError(f"the ZIP holds more than {most} members")
        members[name] = archive[start : start + size]
        at = start + size
    if not members:
        raise ProofError("that is no ZIP, or an empty one")
    if pack(members) != archive:
        raise ProofError(
            "the ZIP is not as amaru packs it: something was changed, reordered, or added after its last member — ask "
            "for the file as it was exported"
        )
    return members
