"""What a policy reads, told from its syntax tree.

Starting at a stage's rules, every reference is followed through the rules, functions and imports that it names,
and every part of `input` that is named on the way is read. A reference's ground beginning counts:
`input.signals[_].set` reads `signals`. A bare `input`, or `input[name]`, may be anything: ``*``. What is read is
never told too small, because what a stage is not said to read is not sent to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Tree = Any
Key = tuple[str, str]
"""A rule: its package, and its name."""

EVERYTHING = "*"


@dataclass(frozen=True)
class Reference:
    """``head`` is the first variable, ``path`` the ground steps after it, ``ground`` whether that is all."""

    head: str
    path: tuple[str, ...]
    ground: bool
    file: str
    row: int


@dataclass
class Module:
    """One parsed file: its package and the line that says it, its imports (alias → dotted path) and its rules (name →
    bodies)."""

    file: str
    package: str
    imports: dict[str, str] = field(default_factory=dict)
    rules: dict[str, list[Tree]] = field(default_factory=dict)
    row: int = 1


def module_of(file: str, tree: Tree) -> Module:
    """Read the tree that ``opa parse --format json --json-include locations`` gives."""
    package = ".".join(str(step["value"]) for step in tree["package"]["path"][1:])
    module = Module(file, package, row=int((tree["package"].get("location") or {}).get("row", 1)))
    for entry in tree.get("imports") or []:
        steps = [str(step["value"]) for step in entry["path"]["value"]]
        module.imports[entry.get("alias") or steps[-1]] = ".".join(steps)
    for rule in tree.get("rules") or []:
        name = rule_name(rule)
        while rule is not None:
            module.rules.setdefault(name, []).append(rule)
            rule = rule.get("else")
    return module


def rule_name(rule: Tree) -> str:
    head = rule["head"]
    if head.get("name"):
        return str(head["name"])
    return str(head["ref"][0]["value"])


def references(tree: Tree, file: str) -> Iterator[Reference]:
    """Every reference and every bare variable below ``tree``."""
    if isinstance(tree, list):
        for item in tree:
            yield from references(item, file)
        return
    if not isinstance(tree, dict):
        return
    kind = tree.get("type")
    row = (tree.get("location") or {}).get("row", 0)
    if kind == "ref":
        steps = tree["value"]
        if steps[0]["type"] == "var":
            ground = 1
            while ground < len(steps) and steps[ground]["type"] == "string":
                ground += 1
            path = tuple(str(step["value"]) for step in steps[1:ground])
            yield Reference(str(steps[0]["value"]), path, ground == len(steps), file, row)
            rest: Iterable[Tree] = steps[ground:]
        else:
            rest = steps
        for step in rest:
            yield from references(step, file)
        return
    if kind == "var":
        yield Reference(str(tree["value"]), (), True, file, row)
        return
    for key, part in tree.items():
        if key not in ("location", "annotations"):
            yield from references(part, file)


class Reader:
    """Follows references through a set of modules."""

    def __init__(self, modules: Iterable[Module]) -> None:
        self._rules: dict[Key, list[tuple[Module, Tree]]] = {}
        self._packages: set[str] = set()
        for module in modules:
            self._packages.add(module.package)
            for name, bodies in module.rules.items():
                self._rules.setdefault((module.package, name), []).extend((module, b) for b in bodies)

    def reads(self, package: str, rule: str) -> list[str]:
        """The dotted input fields that ``data.<package>.<rule>`` may read, sorted; ``["*"]`` for all."""
        found: set[str] = set()
        for key in self.reached(package, rule):
            for module, body in self._rules[key]:
                for reference in references(body, module.file):
                    steps = self._absolute(reference, module)
                    if steps and steps[0] == "input":
                        found.add(".".join(steps[1:]) or EVERYTHING)
                    elif steps == ["data"]:
                        found.add(EVERYTHING)
        if EVERYTHING in found:
            return [EVERYTHING]
        return sorted(name for name in found if not any(name.startswith(f"{other}.") for other in found))

    def reached(self, package: str, rule: str) -> list[Key]:
        """The rules that ``data.<package>.<rule>`` may evaluate, itself among them."""
        pending: list[Key] = [(package, rule)]
        seen: set[Key] = set()
        while pending:
            key = pending.pop()
            if key in seen or key not in self._rules:
                continue
            seen.add(key)
            for module, body in self._rules[key]:
                for reference in references(body, module.file):
                    pending += self._targets(reference, module)
        return sorted(seen)

    def bodies(self, key: Key) -> list[tuple[Module, Tree]]:
        return self._rules[key]

    def _absolute(self, reference: Reference, module: Module) -> list[str]:
        """The reference with imports put in: steps from ``input`` or ``data``, or empty for anything else."""
        if reference.head in module.imports:
            return [*module.imports[reference.head].split("."), *reference.path]
        if reference.head in ("input", "data"):
            return [reference.head, *reference.path]
        return []

    def _targets(self, reference: Reference, module: Module) -> list[Key]:
        """The rules that a reference may mean: one, or every rule below a package that it does not name whole."""
        steps = self._absolute(reference, module)
        if not steps:
            own = (module.package, reference.head)
            return [own] if own in self._rules else []
        if steps[0] != "data":
            return []
        dotted = ".".join(steps[1:])
        named = [
            key for key in self._rules if dotted == f"{key[0]}.{key[1]}" or dotted.startswith(f"{key[0]}.{key[1]}.")
        ]
        below = [key for key in self._rules if f"{key[0]}.".startswith(f"{dotted}.")]
        return named + below
