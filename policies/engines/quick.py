"""The short way into a compiled policy: one call of the module per question.

opa-py-wasm brings everything that is hard (instances, the ABI's checks, host builtins, deadlines, the memory
cap) and evaluates with five calls into the module, each of which costs about 40 µs of Python. Four of them only
move the heap's mark, and ``opa_eval`` sets that itself (OPA ``wasm/src/context.c``, ABI 1.2): the input may be
written above the data and the mark put above the input. That halves the price of a small question.

An instance has one user at a time, and one that failed is never used again.
"""

from __future__ import annotations

import json
from typing import Any

from opapywasm import (
    BuiltinRegistry,
    OpaAbortError,
    OpaEntrypointError,
    OpaEvaluationError,
    OpaMemoryError,
    OpaWasmError,
    PolicyConfig,
)
from opapywasm import runtime as opapywasm_runtime
from opapywasm.abi import OpaAbiSpec
from opapywasm.builtins import default_builtins
from opapywasm.instance import OpaPolicyInstance
from opapywasm.runtime import WasmtimeRuntimeFactory
from wasmtime import Trap, WasmtimeError

FIRST_PAGES = 64
ROOM = 1024 * 1024
"""Bytes of memory that must be free above the input; without them the caller takes the long way."""

# opa-py-wasm 1.2 gives every module two pages to begin with, and then refuses one whose constants need three: it
# retries with more only after a trap, and this is an import that does not fit. It has no setting for it.
opapywasm_runtime._DEFAULT_MEMORY_PAGES = FIRST_PAGES

UNDEFINED = object()


class QuickModule:
    """A compiled module with its data, for any thread. Raises opa-py-wasm's own errors."""

    def __init__(self, wasm: bytes, data: bytes, config: PolicyConfig) -> None:
        self._config = config
        self._data = data
        self._factory = WasmtimeRuntimeFactory(wasm, max_memory_pages=config.max_memory_pages)
        self._registry = BuiltinRegistry(default_builtins())
        self._idle: list[OpaPolicyInstance] = []
        try:
            first = self._fresh()
            self._idle.append(first)
            self.entrypoints = first.entrypoints()
            self.missing_builtins = sorted(set(first.builtins()) - set(self._registry.snapshot()))
        except OpaWasmError:
            self.close()
            raise

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
        self._factory.close()

    def evaluate(self, document: bytes, entrypoint: str, seconds: float) -> Any:
        """The entrypoint's value for the input, or ``UNDEFINED``. ``seconds`` is the deadline, in steps of 10 ms."""
        if entrypoint not in self.entrypoints:
            raise OpaEntrypointError(f"the module has no entrypoint {entrypoint}")
        if len(document) > self._config.max_input_bytes:
            raise OpaMemoryError(f"the input has {len(document)} bytes, over {self._config.max_input_bytes}")
        try:
            instance = self._idle.pop()
        except IndexError:
            instance = self._fresh()
        try:
            answer = self._ask(instance, document, self.entrypoints[entrypoint], seconds)
        except BaseException:
            instance.close()
            raise
        self._idle.append(instance)
        return answer[0]["result"] if answer else UNDEFINED

    def _ask(self, instance: OpaPolicyInstance, document: bytes, entrypoint: int, seconds: float) -> Any:
        abi, loaded = instance.abi, instance._data
        start = loaded.data_heap_ptr
        above = (start + len(document) + 15) & ~15
        if above + ROOM > abi.memory_len():
            return instance.evaluate(document, entrypoint)
        abi.set_epoch_deadline(self._factory.epoch.deadline_ticks(seconds))
        try:
            abi.memory_write(start, document)
            address = abi.opa_eval(entrypoint, loaded.data_addr, start, len(document), above)
        except (Trap, WasmtimeError, OpaAbortError) as error:
            raise _own_error(error) from error
        text = instance.codec.read_cstring(address)
        if len(text) > self._config.max_result_bytes:
            raise OpaMemoryError(f"the answer has {len(text)} bytes")
        return json.loads(text)

    def _fresh(self) -> OpaPolicyInstance:
        return OpaPolicyInstance(
            self._factory,
            self._config,
            OpaAbiSpec(),
            initial_data=self._data,
            data_version=1,
            builtins=self._registry,
            epoch=self._factory.epoch,
        )


def _own_error(error: Exception) -> OpaWasmError:
    """A typed error that was raised in a host function, which wasmtime wraps in a trap; else what the trap says."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OpaWasmError):
            return cause
        cause = cause.__cause__ or cause.__context__
    text = str(error)
    if "interrupt" in text.lower():
        return OpaEvaluationError("evaluation exceeded its time limit")
    return OpaEvaluationError(f"evaluation failed: {text}")
