"""The short way into a compiled policy.

opa-py-wasm brings everything that is hard (instances, the ABI's checks, host builtins, deadlines, the memory
cap) and evaluates with five calls into the module, each of which costs 15 to 40 µs of Python. Here the calls go
straight to wasmtime (``policies.engines.direct``).

``opa_eval``, the one call of ABI 1.2, begins by emptying the heap, and with it goes what the module keeps of regular
expressions: every decision would compile each of them anew, and find out anew how it matches. So small inputs are
asked about with the calls of ABI 1.0, which leave the heap as it is, and the heap is emptied when ``HEAP_BYTES`` of it
are used. Nothing that a policy can see is kept: values are made anew, and rules are remembered for one evaluation.

An instance has one user at a time, and one that failed is never used again.
"""

from __future__ import annotations

from typing import Any

import msgspec
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

from policies.engines.direct import Direct

FIRST_PAGES = 64
SMALL_BYTES = 32 * 1024
"""Of an input that has its place in every instance; a larger one is laid on the heap, and read without the lock."""

HEAP_BYTES = 4 * 1024 * 1024
"""Used by evaluations before the heap is emptied: some ten to a hundred of them."""

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
        self._idle: list[_Instance] = []
        try:
            first = self._fresh()
            self._idle.append(first)
            self.entrypoints = first.opa.entrypoints()
            self.missing_builtins = sorted(set(first.opa.builtins()) - set(self._registry.snapshot()))
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
            text = instance.ask(document, self.entrypoints[entrypoint], self._factory.epoch.deadline_ticks(seconds))
        except BaseException:
            instance.close()
            raise
        self._idle.append(instance)
        try:
            answer = msgspec.json.decode(text)
        except ValueError as error:
            raise OpaEvaluationError(f"the answer of {entrypoint} is no JSON: {error}") from error
        return answer[0]["result"] if answer else UNDEFINED

    def _fresh(self) -> _Instance:
        return _Instance(
            OpaPolicyInstance(
                self._factory,
                self._config,
                OpaAbiSpec(),
                initial_data=self._data,
                data_version=1,
                builtins=self._registry,
                epoch=self._factory.epoch,
            ),
            self._config.max_result_bytes,
        )


class _Instance:
    """One instance: its data, a place for small inputs, and above them what evaluations use."""

    def __init__(self, opa: OpaPolicyInstance, most: int) -> None:
        self.opa = opa
        self._most = most
        self._calls = direct = Direct(opa._runtime)
        self._parse, self._parse_long = direct.short("opa_value_parse", 2), direct.long("opa_value_parse", 2)
        self._dump, self._dump_long = direct.short("opa_json_dump", 1), direct.long("opa_json_dump", 1)
        self._heap, self._empty = direct.short("opa_heap_ptr_get", 0), direct.short("opa_heap_ptr_set", 1)
        self._context_new = direct.short("opa_eval_ctx_new", 0)
        self._set_data = direct.short("opa_eval_ctx_set_data", 2)
        self._set_input = direct.short("opa_eval_ctx_set_input", 2)
        self._set_entrypoint = direct.short("opa_eval_ctx_set_entrypoint", 2)
        self._result = direct.short("opa_eval_ctx_get_result", 1)
        self._eval, self._malloc = direct.long("eval", 1), direct.short("opa_malloc", 1)
        self._input = self._malloc(SMALL_BYTES)
        self._floor = self._heap()
        self._begin()

    def close(self) -> None:
        self.opa.close()

    def _begin(self) -> None:
        """Empty the heap."""
        self._empty(self._floor)
        self._context = self._context_new()
        self._set_data(self._context, self.opa._data.data_addr)
        self._entrypoint = -1

    def ask(self, document: bytes, entrypoint: int, ticks: int) -> bytes:
        """The result set, as JSON text."""
        try:
            self._calls.deadline(ticks)
            return self._asked(document, entrypoint)
        except (Trap, WasmtimeError, OpaAbortError) as error:
            raise _own_error(error) from error

    def _asked(self, document: bytes, entrypoint: int) -> bytes:
        small = len(document) <= SMALL_BYTES
        place = self._input if small else self._malloc(len(document))
        self._calls.write(place, document)
        value = (self._parse if small else self._parse_long)(place, len(document))
        if not value:
            return b"[]"
        context = self._context
        self._set_input(context, value)
        if entrypoint != self._entrypoint:
            self._set_entrypoint(context, entrypoint)
            self._entrypoint = entrypoint
        if failed := self._eval(context):
            raise OpaEvaluationError(f"evaluation failed: {failed}")
        text = self._calls.text((self._dump if small else self._dump_long)(self._result(context)), self._most)
        if self._heap() - self._floor > HEAP_BYTES:
            self._begin()
        return text


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
