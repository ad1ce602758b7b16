"""The short way into the module: what is kept between decisions changes none of them, and does not grow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from opapywasm import OpaMemoryError
from opapywasm.errors import OpaAbiError

import policies
from policies.bundle import Bundle
from policies.engines import quick
from policies.engines.embedded import EmbeddedEngine
from policies.model import Stage

SHELL = Path(policies.__file__).parent / "library" / "interlock" / "shell"
COMMANDS: list[str] = [
    command
    for name in ("destructive", "ordinary")
    for command in json.loads((SHELL / f"{name}.json").read_text("utf-8"))[name]
    if isinstance(command, str)
][::4]


def document(command: str) -> bytes:
    return json.dumps({"call": {"name": "bash", "arguments": {"command": command}, "raw": ""}}).encode()


def answers(engine: EmbeddedEngine) -> list[Any]:
    return [engine._evaluate(document(command), "interlock/entry/tool_call", 60) for command in COMMANDS]


async def test_what_the_module_keeps_between_decisions_changes_none(
    library_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, emptied = EmbeddedEngine(library_bundle, 60), EmbeddedEngine(library_bundle, 60)
    found = answers(kept)
    assert sum(answer["interlock.shell"] != [] for answer in found) > 25
    monkeypatch.setattr(quick, "HEAP_BYTES", 0)
    assert answers(emptied) == found
    await kept.close()
    await emptied.close()


async def test_decisions_without_end_take_no_more_memory(library_bundle: Bundle) -> None:
    engine = EmbeddedEngine(library_bundle, 60)
    answers(engine)
    (instance,) = engine._module._idle
    for _ in range(3):
        answers(engine)
    assert instance._calls.size() < 3 * quick.HEAP_BYTES  # never emptied, it would reach the cap
    assert engine._module._idle == [instance]
    await engine.close()


async def test_small_and_large_inputs_take_turns(library_bundle: Bundle) -> None:
    engine = EmbeddedEngine(library_bundle, 60)
    padding = "# " + "x" * (4 * quick.SMALL_BYTES) + "\n"
    for command, denied in (("rm -rf /srv/data", True), ("ls", False)):
        small = await engine.ask_one("interlock.shell", Stage.TOOL_CALL, document(command))
        large = await engine.ask_one("interlock.shell", Stage.TOOL_CALL, document(padding + command))
        assert bool(small) is bool(large) is denied
    await engine.close()


def test_a_text_is_read_to_its_end_and_not_beyond_the_memory(library_bundle: Bundle) -> None:
    engine = EmbeddedEngine(library_bundle, 60)
    (instance,) = engine._module._idle
    calls, place = instance._calls, instance._input
    for size in (0, 1, 1023, 1024, 1025, 30_000):
        calls.write(place, b"a" * size + b"\0")
        assert calls.text(place, 30_000) == b"a" * size
    with pytest.raises(OpaMemoryError):
        calls.text(place, 29_999)
    for outside in (0, -1, calls.size()):
        with pytest.raises(OpaMemoryError):
            calls.text(outside, 10)
        with pytest.raises(OpaMemoryError):
            calls.write(outside, b"ab")
    calls.write(calls.size() - 2, b"ab")
    with pytest.raises(OpaMemoryError):
        calls.text(calls.size() - 2, 10)


def test_an_export_is_bound_with_the_arguments_that_it_has(library_bundle: Bundle) -> None:
    engine = EmbeddedEngine(library_bundle, 60)
    (instance,) = engine._module._idle
    with pytest.raises(OpaAbiError, match="opa_malloc"):
        instance._calls.short("opa_malloc", 2)
