"""How this process's memory goes back to the system.

CPython takes what is larger than 512 bytes from the C library. glibc's defaults are for programs whose threads allocate
all the time: each thread has an arena of its own, and the first large block that is freed teaches it to take blocks of
that size from the heap from then on, where the holes that they leave stay resident. Here one thread at a time allocates
(the interpreter's lock), and a long request is read once and dropped while its answer flows for minutes. So: one arena,
large blocks always mapped on their own, and holes given back once long requests have left many of them, or traffic
has stopped. Other C libraries are left alone.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of malloc.h
_MAPPED_BYTES = 512 * 1024
_HEAP_END_BYTES = 4 * 1024 * 1024
_LONG_BYTES = 64 * 1024
_HOLES_BYTES = 8 * 1024 * 1024


def _glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    known = all(hasattr(library, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim"))
    return library if known else None


def calm_allocator() -> bool:
    """Set it up; to be called before there are threads. Whether this C library has these settings."""
    library = _glibc()
    if library is None:
        return False
    options = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _MAPPED_BYTES), (_TRIM_THRESHOLD, _HEAP_END_BYTES))
    taken = [bool(library.mallopt(name, value)) for name, value in options]
    return all(taken)


class Holes:
    """What requests may have left in the heap. To give it back takes a millisecond or two for 100 MB of heap, so it is
    done after many long requests, or once there have been none for a while."""

    def __init__(self) -> None:
        self._library = _glibc()
        self._bytes = 0
        self._any = self._lately = False

    def left_by(self, size: int) -> None:
        """A request of ``size`` bytes was read."""
        self._any = self._lately = True
        if size >= _LONG_BYTES:
            self._bytes += size

    def give_back(self) -> bool:
        """Called every few seconds; whether it was worth it."""
        quiet = self._any and not self._lately
        self._lately = False
        if self._library is None or not (quiet or self._bytes >= _HOLES_BYTES):
            return False
        self._bytes, self._any = 0, False
        self._library.malloc_trim(0)
        return True
