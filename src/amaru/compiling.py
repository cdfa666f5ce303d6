"""How kernels are compiled, and when the compiled code on disk is too old.

Numba's cache looks at the one file that a function stands in. Ours call each other across files, so what is stored is
stamped with a digest of all of them instead: a change anywhere compiles everything anew, and nothing else does.

Kernels allocate nothing, so they are compiled without Numba's reference counts: each array that is named, sliced or
handed on would cost two atomic operations, which together took half the time of a decision.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.extending import register_jitable

_F = TypeVar("_F", bound=Callable[..., object])
_PACKAGE = Path(__file__).resolve().parent
_UNCOUNTED: dict[str, Any] = {"_nrt": False}  # Any: Numba's options


def compiled(signature: str | None = None) -> Callable[[_F], _F]:
    """Compile for exactly ``signature``, now or from the cache on disk; without a cache where no place is writable.

    Without a signature, for the types of its first call. The function must not allocate.
    """

    def compile_it(function: _F) -> _F:
        dispatcher = numba.njit(nogil=True, **_UNCOUNTED)(function)
        try:
            dispatcher.enable_caching()
            # Numba offers no other place for it; where that moves, its own stamp (the one file) stands.
            cache = getattr(dispatcher, "_cache", None)
            if cache is not None and hasattr(cache, "_cache_file"):
                cache._cache_file._source_stamp = _stamp()
        except RuntimeError:  # no place is writable: compile anew at every start
            dispatcher = numba.njit(nogil=True, **_UNCOUNTED)(function)
        if signature is not None:
            dispatcher.compile(signature)
            dispatcher.disable_compile()
        return cast(_F, dispatcher)

    return compile_it


def inlined(function: _F) -> _F:
    """Callable from compiled code and, as it is, from Python."""
    return register_jitable(forceinline=True, **_UNCOUNTED)(function)


@functools.cache
def _stamp() -> str:
    """Digest of every source file that holds kernels (by convention they are named so), and of this one."""
    digest = hashlib.blake2b(digest_size=16)
    for path in [*sorted(_PACKAGE.glob("*/*kernels.py")), Path(__file__)]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
