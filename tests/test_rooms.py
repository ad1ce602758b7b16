"""Imports run downwards only: a room knows those below it, never one above or beside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KNOWS = {
    "serving": set[str](),
    "checks": {"serving"},
    "policies": {"serving"},
    "tracing": {"serving"},
    "proxy": {"checks", "policies", "tracing", "serving"},
    "bench": {"proxy", "checks", "policies", "tracing", "serving"},
}
"""Each room, and the rooms that it may know."""
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for room in KNOWS
    for path in sorted((ROOT / room).rglob("*.py"))
}


def imports(module: str) -> Iterator[tuple[str, int]]:
    """The modules of ours that one imports, wherever it does, each with its line."""
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name for name in inner if name in MODULES] or [node.module]
        else:
            continue
        yield from ((name, node.lineno) for name in found if name.partition(".")[0] in {*KNOWS, "tests"})


@pytest.mark.parametrize("room", KNOWS)
def test_a_room_knows_only_the_rooms_below_it(room: str) -> None:
    above = [
        f"{MODULES[module]}:{line} imports {name}"
        for module in MODULES
        if module.partition(".")[0] == room
        for name, line in imports(module)
        if name.partition(".")[0] not in KNOWS[room] | {room}
    ]
    assert above == []


def test_no_modules_import_one_another_in_a_circle() -> None:
    known = {module: {name for name, _ in imports(module) if name != module} for module in MODULES}
    assert sum(map(len, known.values())) > 1000
    TopologicalSorter(known).prepare()  # raises CycleError, with the circle
