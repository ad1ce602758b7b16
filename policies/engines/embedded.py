"""OPA's own compiler to WebAssembly, evaluated in this process by opa-py-wasm.

Small inputs are evaluated where they are asked for, on the event loop: handing one to a thread costs more than
the answer. Such an evaluation has ``LOOP_SECONDS`` at most, so that no policy can hold up the loop; what needs
longer, and every input over ``LOOP_BYTES``, is evaluated in a thread with what is left of the deadline. Nobody but the
input takes that time, so a deadline that passes is the input's fault. Memory is capped
either way, and an instance that failed is thrown away.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

from opapywasm import (
    OpaAbortError,
    OpaBuiltinError,
    OpaEntrypointError,
    OpaEvaluationError,
    OpaInvalidInputError,
    OpaMemoryError,
    OpaWasmError,
    PolicyConfig,
)

from policies.builtins import require_alike
from policies.bundle import Bundle, BundleError, alone, together
from policies.engines.base import Cause, EngineError
from policies.engines.quick import UNDEFINED, QuickModule
from policies.model import Stage

LOOP_BYTES = 32 * 1024
LOOP_SECONDS = 0.05
INPUT_BYTES = 4 * 1024 * 1024
MEMORY_PAGES = 2048  # of 64 KiB each: 128 MiB


class EmbeddedEngine:
    """Evaluates a bundle's ``policy.wasm``. Built by the constructor; :meth:`start` has nothing to do.

    Raises :class:`BundleError` if the module cannot be used, or needs a builtin that only a server has or that gives
    another answer there.
    """

    name = "embedded"

    def __init__(self, bundle: Bundle, timeout_seconds: float) -> None:
        self._timeout = timeout_seconds
        self._closed = False
        self._busy: list[str] = []
        config = PolicyConfig(
            max_input_bytes=INPUT_BYTES,
            parse_raw_json_input=False,
            max_memory_pages=MEMORY_PAGES,
            eval_timeout_seconds=timeout_seconds,
        )
        try:
            self._module = QuickModule(bundle.wasm, json.dumps(bundle.data).encode(), config)
        except OpaWasmError as error:
            raise BundleError(f"policy.wasm cannot be used: {error}") from error
        try:
            require_alike(bundle, self._module.missing_builtins)
        except BundleError:
            self._module.close()
            raise

    async def start(self) -> None:
        """Nothing: it is ready when it is built."""

    async def close(self) -> None:
        """What is being evaluated is over first: it has a deadline. Whoever asks from now on gets no answer."""
        self._closed = True
        while self._busy:  # noqa: ASYNC110 - threads, which know no event of the loop's
            await asyncio.sleep(0.01)
        self._module.close()

    async def ask_all(
        self, stage: Stage, document: bytes, seconds: float = math.inf, exchange: str = ""
    ) -> dict[str, Any]:
        entrypoint = together(stage).replace(".", "/")
        if len(document) > LOOP_BYTES:
            answer = await asyncio.to_thread(self._evaluate, document, entrypoint, seconds)
        else:
            answer = self._evaluate(document, entrypoint, min(LOOP_SECONDS, seconds))
        if not isinstance(answer, dict):
            raise EngineError("policy", f"{entrypoint} gave no object")
        return answer

    async def ask_one(
        self, policy: str, stage: Stage, document: bytes, seconds: float = math.inf, exchange: str = ""
    ) -> Any:
        entrypoint = alone(policy, stage).replace(".", "/")
        return await asyncio.to_thread(self._evaluate, document, entrypoint, seconds)

    def _evaluate(self, document: bytes, entrypoint: str, seconds: float) -> Any:
        if seconds <= 0:
            raise EngineError("input", f"no time was left for {entrypoint}")
        self._busy.append(entrypoint)  # before the look at what closing sets: one of the two sees the other
        try:
            if self._closed:
                raise EngineError("engine", "these policies are no longer kept: others have been in force for long")
            return self._evaluated(document, entrypoint, seconds)
        finally:
            self._busy.remove(entrypoint)

    def _evaluated(self, document: bytes, entrypoint: str, seconds: float) -> Any:
        try:
            answer = self._module.evaluate(document, entrypoint, min(seconds, self._timeout))
        except OpaWasmError as error:
            raise EngineError(_cause(error), f"{type(error).__name__}: {error}"[:300]) from error
        if answer is UNDEFINED:
            raise EngineError("input", f"{entrypoint} is undefined: the engine could not read the input")
        return answer


def _cause(error: OpaWasmError) -> Cause:
    """Whose fault a failure is; sources: OPA's ``wasm/src`` (abort texts), opa-py-wasm's errors."""
    if isinstance(error, OpaMemoryError | OpaInvalidInputError):
        return "input"
    if isinstance(error, OpaAbortError):
        return "policy" if "conflict" in str(error) else "input"
    if isinstance(error, OpaBuiltinError | OpaEntrypointError):
        return "policy"
    if isinstance(error, OpaEvaluationError):
        return "input"
    return "engine"
