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

from opapywasm import (
    UNDEFINED,
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
from opapywasm import runtime as opapywasm_runtime

from policies.bundle import ENTRY_PACKAGE, POLICY_PACKAGE, Bundle, BundleError
from policies.engines.base import Cause, EngineError
from policies.model import Stage

LOOP_BYTES = 32 * 1024
LOOP_SECONDS = 0.05
INPUT_BYTES = 4 * 1024 * 1024
MEMORY_PAGES = 2048  # of 64 KiB each: 128 MiB
FIRST_PAGES = 64

# opa-py-wasm 1.2 gives every module two pages to begin with, and then refuses one whose constants need three: it
# retries with more only after a trap, and this is an import that does not fit. It has no setting for it.
opapywasm_runtime._DEFAULT_MEMORY_PAGES = FIRST_PAGES


class EmbeddedEngine:
    """Evaluates a bundle's ``policy.wasm``. Built by the constructor; :meth:`start` has nothing to do.

    Raises :class:`BundleError` if the module cannot be used, or needs a builtin that only a server has.
    """

    name = "embedded"

    def __init__(self, bundle: Bundle, timeout_seconds: float) -> None:
        self._bundle = bundle
        self._timeout = timeout_seconds
        self._quick = self._compile(min(LOOP_SECONDS, timeout_seconds), 1)
        self._slow: OpaWasmPolicy | None = None
        self._slow_lock = threading.Lock()
        missing = sorted(set(self._quick.builtins) - set(self._quick.registered_builtins))
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

    def _compile(self, timeout_seconds: float, pool_size: int) -> OpaWasmPolicy:
        config = PolicyConfig(
            pool_size=pool_size,
            borrow_timeout_seconds=timeout_seconds,
            max_input_bytes=INPUT_BYTES,
            parse_raw_json_input=False,
            max_memory_pages=MEMORY_PAGES,
            eval_timeout_seconds=timeout_seconds,
        )
        try:
            policy = OpaWasmPolicy.from_wasm_bytes(self._bundle.wasm, config)
            policy.set_data(json.dumps(self._bundle.data))
        except OpaWasmError as error:
            raise BundleError(f"policy.wasm cannot be used: {error}") from error
        return policy

    def _evaluate_slowly(self, document: bytes, entrypoint: str) -> Any:
        with self._slow_lock:
            if self._slow is None:
                self._slow = self._compile(self._timeout, 2)
        return self._evaluate(self._slow, document, entrypoint)

    @staticmethod
    def _evaluate(policy: OpaWasmPolicy, document: bytes, entrypoint: str) -> Any:
        try:
            answer = policy.evaluate(document, entrypoint)
        except OpaWasmError as error:
            raise EngineError(_cause(error), f"{type(error).__name__}: {error}"[:300]) from error
        if answer is UNDEFINED:
            raise EngineError("policy", f"{entrypoint} is undefined")
        return answer


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
