"""Calls of a module's exports without the layers of wasmtime's Python package, which cost ten times the call itself.

wasmtime-py asks for a function's type and makes a value of each argument at every call (15 to 40 µs). Here the
arguments are written where the C function ``wasmtime_func_call_unchecked`` reads them (1.5 µs). "Unchecked" means that
nobody looks at types: so a function is looked at once, when it is bound, and must take and give 32 bits.

The short calls keep the interpreter's lock: giving it away for a microsecond invites another thread to take it for
five milliseconds. Only ``long`` ones, which may take their time, give it away; the clock that ends them runs in
another thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

from opapywasm import OpaMemoryError
from opapywasm.errors import OpaAbiError
from opapywasm.runtime import WasmtimeRuntime
from wasmtime import Trap, WasmtimeError
from wasmtime import _ffi as ffi
from wasmtime._func import maybe_raise_last_exn

_SLOT = 4  # a wasmtime_val_raw_t has 16 bytes
_MOST_ARGUMENTS = 2
_FIRST_READ = 1024

_HOLDING = ctypes.PyDLL(str(ffi.filename), handle=ffi.dll._handle)
_RELEASING = ctypes.CDLL(str(ffi.filename), handle=ffi.dll._handle)


def _bound(library: ctypes.CDLL, name: str, gives: Any, *takes: Any) -> Any:
    function = library[name]  # an object of its own, so that its types are nobody else's
    function.restype, function.argtypes = gives, takes
    return function


_P = ctypes.c_void_p
_CALL_TYPES = (_P, _P, _P, _P, ctypes.c_size_t, _P)
_call_holding = _bound(_HOLDING, "wasmtime_func_call_unchecked", *_CALL_TYPES)
_call_releasing = _bound(_RELEASING, "wasmtime_func_call_unchecked", *_CALL_TYPES)
_memory_data = _bound(_HOLDING, "wasmtime_memory_data", _P, _P, _P)
_memory_size = _bound(_HOLDING, "wasmtime_memory_data_size", ctypes.c_size_t, _P, _P)
_set_deadline = _bound(_HOLDING, "wasmtime_context_set_epoch_deadline", None, _P, ctypes.c_uint64)


class Direct:
    """The exports and the memory of one instance, for one thread at a time. Not to be used once it is closed."""

    def __init__(self, runtime: WasmtimeRuntime) -> None:
        self._runtime = runtime
        self._kept: list[Any] = []  # what C has addresses of
        self._context = ctypes.cast(runtime.store._context(), _P).value
        self._memory = ctypes.addressof(runtime.memory._memory)
        self._slots = (ctypes.c_int32 * (_SLOT * _MOST_ARGUMENTS))()
        self._trap = ctypes.POINTER(ffi.wasm_trap_t)()

    def short(self, name: str, arguments: int) -> Callable[..., int]:
        """The export ``name``, which takes so many numbers of 32 bits, for calls that are over at once."""
        return self._function(_call_holding, name, arguments)

    def long(self, name: str, arguments: int) -> Callable[..., int]:
        """The same for calls that may last: other threads go on meanwhile."""
        return self._function(_call_releasing, name, arguments)

    def _function(self, call: Any, name: str, arguments: int) -> Callable[..., int]:
        function = self._runtime.get_func(name)
        kind = function.type(self._runtime.store)
        takes, gives = [str(value) for value in kind.params], [str(value) for value in kind.results]
        if arguments > _MOST_ARGUMENTS or takes != ["i32"] * arguments or gives not in ([], ["i32"]):
            raise OpaAbiError(f"the export {name} takes {takes} and gives {gives}")
        self._kept.append(function)
        slots, trap = self._slots, self._trap
        made = partial(
            call,
            self._context,
            ctypes.addressof(function._func),
            ctypes.addressof(slots),
            max(arguments, len(gives)),
            ctypes.addressof(trap),
        )

        def called(first: int = 0, second: int = 0) -> int:
            slots[0], slots[_SLOT] = first, second
            if (error := made()) or trap:
                self._raise(error)
            return slots[0]

        return called

    def _raise(self, error: int | None) -> None:
        """What a call that failed raises: a host function's own error, a :class:`Trap` or a :class:`WasmtimeError`."""
        if self._trap:
            trap = Trap._from_ptr(self._trap)
            maybe_raise_last_exn()
            raise trap
        maybe_raise_last_exn()
        raise WasmtimeError._from_ptr(ctypes.cast(error or 0, ctypes.POINTER(ffi.wasmtime_error_t)))

    def deadline(self, ticks: int) -> None:
        """Calls trap once the engine's clock has ticked so often from now."""
        _set_deadline(self._context, ticks)

    def size(self) -> int:
        """Bytes of memory."""
        return int(_memory_size(self._context, self._memory))

    def write(self, address: int, content: bytes) -> None:
        """Raises :class:`OpaMemoryError` if it is not all within the memory."""
        if address <= 0 or address + len(content) > self.size():
            raise OpaMemoryError(f"{len(content)} bytes at {address} are outside the memory")
        ctypes.memmove(_memory_data(self._context, self._memory) + address, content, len(content))

    def text(self, address: int, most: int) -> bytes:
        """The bytes from ``address`` to the first NUL; :class:`OpaMemoryError` if there are more than ``most``."""
        size, base, room = self.size(), _memory_data(self._context, self._memory), _FIRST_READ
        while 0 < address < size:
            room = min(room, most + 1, size - address)
            read = ctypes.string_at(base + address, room)
            if (end := read.find(0)) >= 0:
                return read[:end]
            if room in (most + 1, size - address):
                break
            room *= 8
        raise OpaMemoryError(f"the text at {address} does not end within {most} bytes, or is outside the memory")
