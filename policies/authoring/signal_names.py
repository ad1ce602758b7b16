"""Signals that a rule waits for and that no pattern set gives: ``signal.id == "ibann"`` is never true."""

from __future__ import annotations

from collections.abc import Iterator

from policies.authoring.names import meant
from policies.authoring.references import Module, Tree
from serving.patterns import shipped_names, shipped_set

_COMPARES = ("eq", "equal")


def unknown_signals(module: Module) -> Iterator[tuple[int, str]]:
    """Row, and what is not there. Only what is written out is seen: ``some s in input.signals``, then ``s.set == "…"``
    or ``s.id == "…"`` in the same rule."""
    for bodies in module.rules.values():
        for rule in bodies:
            calls = list(_calls(rule))
            signals = {
                str(operands[0]["value"])
                for _, name, operands in calls
                if name == "internal.member_2" and _steps(operands[1], module) == ["input", "signals"]
            }
            for row, name, operands in calls:
                if name in _COMPARES and (text := _compared(operands, signals, module)):
                    yield row, text


def _compared(operands: list[Tree], signals: set[str], module: Module) -> str | None:
    for one, other in (operands, operands[::-1]):
        steps = _steps(one, module)
        if len(steps) != 2 or steps[0] not in signals or other.get("type") != "string":
            continue
        wanted = str(other["value"])
        if steps[1] == "set" and wanted not in shipped_names():
            return f"there is no pattern set {wanted}{meant(wanted, sorted(shipped_names()))}"
        if steps[1] == "id":
            there = sorted({pattern.id for name in shipped_names() for pattern in shipped_set(name).patterns})
            if wanted not in there:
                near = meant(wanted, there)
                return f"no pattern has the id {wanted}{near if 'mean' in near else ''}"
    return None


def _steps(term: Tree, module: Module) -> list[str]:
    """The steps of a reference that is all written out, imports put in; else nothing."""
    if not isinstance(term, dict) or term.get("type") != "ref":
        return []
    head, *rest = term["value"]
    if any(step["type"] != "string" for step in rest):
        return []
    return [*module.imports.get(str(head["value"]), str(head["value"])).split("."), *(str(s["value"]) for s in rest)]


def _calls(tree: Tree) -> Iterator[tuple[int, str, list[Tree]]]:
    """Row, name and two operands of every call that has two."""
    if isinstance(tree, list):
        for item in tree:
            yield from _calls(item)
    elif isinstance(tree, dict):
        call = tree.get("value") if tree.get("type") == "call" else tree.get("terms")
        if isinstance(call, list) and len(call) == 3 and call[0].get("type") == "ref":
            name = ".".join(str(step["value"]) for step in call[0]["value"])
            row = (call[0].get("location") or tree.get("location") or {}).get("row", 0)
            yield int(row), name, call[1:]
        for key, part in tree.items():
            if key not in ("location", "annotations"):
                yield from _calls(part)
