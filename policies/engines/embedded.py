"""OPA's own compiler to WebAssembly, evaluated in this process by opa-py-wasm.

Small inputs are evaluated where they are asked for, on the event loop: handing one to a thread costs more than
the answer. Such an evaluation has ``LOOP_SECONDS`` at most, so that no policy can hold up the loop; what needs
longer, and every input over ``LOOP_BYTES``, is evaluated in a thread with the whole deadline. Memory is capped
either way, and an instance that failed is thrown away by the pool.
"""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import opapywasm
from opapywasm import (
    OpaAbortError,
    OpaBuiltinError,
    OpaEntrypointError,
    OpaEvaluationError,
    OpaInvalidInputError,
    OpaMemoryError,
    OpaWasmError,
    OpaWasmPolicy,
    PolicyConfig,
)

from policies.bundle import ENTRY_PACKAGE, POLICY_PACKAGE, Bundle, BundleError
from policies.engines.base import Cause, EngineError
from policies.engines.quick import UNDEFINED, QuickModule
from policies.model import Stage

LOOP_BYTES = 32 * 1024
LOOP_SECONDS = 0.05
INPUT_BYTES = 4 * 1024 * 1024
MEMORY_PAGES = 2048  # of 64 KiB each: 128 MiB


class EmbeddedEngine:
    """Evaluates a bundle's ``policy.wasm``. Built by the constructor; :meth:`start` has nothing to do.

    Raises :class:`BundleError` if the module cannot be used, or needs a builtin that only a server has.
    """

    name = "embedded"

    def __init__(self, bundle: Bundle, timeout_seconds: float) -> None:
        self._bundle = bundle
        self._timeout = timeout_seconds
        self._data = json.dumps(bundle.data).encode()
        try:
            self._quick = QuickModule(bundle.wasm, self._data, _config(min(LOOP_SECONDS, timeout_seconds), 1))
        except OpaWasmError as error:
            raise BundleError(f"policy.wasm cannot be used: {error}") from error
        self._slow: OpaWasmPolicy | None = None
        self._slow_lock = threading.Lock()
        missing = self._quick.missing_builtins
        if missing:
            self._quick.close()
            raise BundleError(
                f"the bundle needs {', '.join(missing)}, which only an OPA server has; "
                "`interlock policy check` names the line"
            )

    async def start(self) -> None:
        """Nothing: it is ready when it is built."""

    async def close(self) -> None:
        self._quick.close()
        if self._slow is not None:
            self._slow.close()

    async def ask_all(self, stage: Stage, document: bytes) -> dict[str, Any]:
        entrypoint = f"{ENTRY_PACKAGE}.{stage.value}".replace(".", "/")
        if len(document) > LOOP_BYTES:
            answer = await asyncio.to_thread(self._evaluate_slowly, document, entrypoint)
        else:
            answer = self._evaluate(self._quick, document, entrypoint)
        if not isinstance(answer, dict):
            raise EngineError("policy", f"{entrypoint} gave no object")
        return answer

    async def ask_one(self, policy: str, stage: Stage, document: bytes) -> Any:
        entrypoint = f"{POLICY_PACKAGE}.{policy}.{stage.value}".replace(".", "/")
        return await asyncio.to_thread(self._evaluate_slowly, document, entrypoint)

    def _evaluate_slowly(self, document: bytes, entrypoint: str) -> Any:
        with self._slow_lock:
            if self._slow is None:
                self._slow = OpaWasmPolicy.from_wasm_bytes(self._bundle.wasm, _config(self._timeout, 2))
                self._slow.set_data(self._data)
        return self._evaluate(self._slow, document, entrypoint)

    @staticmethod
    def _evaluate(module: OpaWasmPolicy | QuickModule, document: bytes, entrypoint: str) -> Any:
        try:
            answer = module.evaluate(document, entrypoint)
        except OpaWasmError as error:
            raise EngineError(_cause(error), f"{type(error).__name__}: {error}"[:300]) from error
        if answer is opapywasm.UNDEFINED or answer is UNDEFINED:
            raise EngineError("policy", f"{entrypoint} is undefined")
        return answer


def _config(timeout_seconds: float, pool_size: int) -> PolicyConfig:
    return PolicyConfig(
        pool_size=pool_size,
        borrow_timeout_seconds=timeout_seconds,
        max_input_bytes=INPUT_BYTES,
        parse_raw_json_input=False,
        max_memory_pages=MEMORY_PAGES,
        eval_timeout_seconds=timeout_seconds,
    )


def _cause(error: OpaWasmError) -> Cause:
    """Whose fault a failure is; sources: OPA's ``wasm/src`` (abort texts), opa-py-wasm's errors."""
    if isinstance(error, OpaMemoryError | OpaInvalidInputError):
        return "input"
    if isinstance(error, OpaAbortError):
        return "policy" if "conflict" in str(error) else "input"
    if isinstance(error, OpaBuiltinError | OpaEntrypointError):
        return "policy"
    if isinstance(error, OpaEvaluationError) and "time limit" not in str(error):
        return "input"
    return "engine"
