"""What `interlock policy check` looks for, beyond what OPA's own compiler says.

- names that the input does not have (``opa check --schema``);
- builtins that the embedded engine does not have, so that no policy works on one engine only; among them are
  the clock, the network and chance, which would make a decision depend on more than its input;
- argument values handed straight to a builtin: of the wrong type they make the rule undefined, silently.
"""

from __future__ import annotations

import difflib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from opapywasm import OpaWasmPolicy, PolicyConfig

from policies.authoring.build import (
    compile_wasm,
    entry_of,
    entry_source,
    entrypoints_of,
    parse_modules,
    require_packages,
    stages_of,
)
from policies.authoring.metadata import MetadataError, main_file, remarks, row_of
from policies.authoring.names import meant, unknown_names
from policies.authoring.opa_tool import OpaFailedError, OpaTool
from policies.authoring.references import Module, Reader, Tree, references
from policies.authoring.signal_names import unknown_signals
from policies.authoring.sources import PolicySources, SourceTree
from policies.authoring.testing import test_data
from policies.builtins import refused, why
from policies.bundle import PolicyEntry
from policies.engines import embedded as _embedded  # gives opa-py-wasm room for modules with many constants
from policies.model import TEXT_STAGES, Stage
from policies.schemas import INPUT_SCHEMA
from policies.text_rules import HoldError, hold_of, require_hold, too_wide_to_mask
from serving.patterns import shipped_patterns

_REDACTS = re.compile(r'"redact"')

_TAKES_ANY_TYPE = frozenset(
    {
        "eq", "equal", "assign", "neq", "internal.member_2", "internal.member_3", "walk", "type_name", "is_string",
        "is_array", "is_object", "is_number", "is_boolean", "is_null", "is_set", "object.get", "json.marshal",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """``file`` is the path in the tree; ``row`` is 0 where there is none."""

    level: Literal["error", "warning"]
    file: str
    row: int
    text: str


@dataclass(frozen=True)
class Report:
    problems: list[Problem]
    entries: list[PolicyEntry]

    @property
    def ok(self) -> bool:
        return not any(problem.level == "error" for problem in self.problems)


def check(tree: SourceTree, opa: OpaTool) -> Report:
    """Check every policy of the tree. Raises :class:`SourceError` for a tree that is laid out wrong and
    :class:`OpaFailedError` for Rego that cannot be read at all."""
    files = tree.modules()
    modules = parse_modules(files, opa)
    require_packages(tree, modules)
    reader = Reader(modules.values())
    problems = [
        Problem("error", file, row, text)
        for file, module in sorted(modules.items())
        for row, text in dict.fromkeys(unknown_names(module))
    ]
    said = {(problem.file, problem.row) for problem in problems}
    problems += (one for one in _compiler_problems(tree, opa) if (one.file, one.row) not in said)
    entries: list[PolicyEntry] = []
    data = test_data(tree)
    for _, policy in sorted(tree.policies.items()):
        stages = stages_of(policy, modules, reader)
        first = main_file(policy)
        if not stages:
            problems.append(_no_stage(policy, modules))
            continue
        for file in policy.modules:
            problems += _no_sets(modules[file])
            problems += _handed_over(modules[file])
            problems += _missing_data(modules[file], data)
            problems += (Problem("warning", file, row, text) for row, text in unknown_signals(modules[file]))
        problems += (Problem("warning", first, row, text) for row, text in remarks(policy, opa))
        if not policy.tests:
            problems.append(Problem("warning", first, 1, "no test: write policy_test.rego beside it"))
        try:
            entry = entry_of(policy, modules, reader, opa)
        except MetadataError as error:
            problems.append(Problem("error", error.file, error.row, error.text))
            continue
        entries.append(entry)
        unheld = [*_holds(entry, policy)]
        problems += unheld
        if not unheld and any(_REDACTS.search(files[file].read_text("utf-8")) for file in policy.modules):
            problems += _masks(entry, policy)
        problems += _needs(entry, policy)
    if not any(problem.level == "error" for problem in problems):
        problems += _host_builtins(tree, entries, modules, opa)
    return Report(problems, entries)


def _no_stage(policy: PolicySources, modules: Mapping[str, Module]) -> Problem:
    """A policy that nothing would ever be asked of; the rule that was probably meant for a stage is named."""
    stages = [stage.value for stage in Stage]
    for file in policy.modules:
        for name, bodies in modules[file].rules.items():
            if near := difflib.get_close_matches(name, stages, n=1):
                text = f"there is no stage {name}; did you mean {near[0]}"
                return Problem("error", file, _row_of_rule(bodies[0]), text)
    rules = sorted({name for file in policy.modules for name in modules[file].rules})
    text = f"no stage: write `tool_call contains finding if …`; stages are {', '.join(stages)}"
    return Problem("error", main_file(policy), 1, f"{text}; its rules are {', '.join(rules)}" if rules else text)


def _no_sets(module: Module) -> Iterator[Problem]:
    """A stage is a set of findings: whatever else it is denies all that it is asked about."""
    for stage in Stage:
        for rule in module.rules.get(stage.value, ()):
            if rule["head"].get("key") is None or rule["head"].get("value") is not None:
                text = f"{stage.value} must be a set of findings: write `{stage.value} contains finding if …`"
                yield Problem("error", module.file, _row_of_rule(rule), text)


def _row_of_rule(rule: Tree) -> int:
    return int((rule["head"].get("location") or rule.get("location") or {}).get("row", 1))


def _missing_data(module: Module, data: Mapping[str, Any]) -> Iterator[Problem]:
    """A key that no data.json has is undefined, and the rule that reads it silently off."""
    rows: dict[str, int] = {}
    for bodies in module.rules.values():
        for reference in references(bodies, module.file):
            path = [*module.imports.get(reference.head, reference.head).split("."), *reference.path]
            if path[0] != "data" or len(path) < 4 or path[1:3] in (["interlock", "lib"], ["interlock", "policies"]):
                continue
            owner, name, key = path[1:4]
            theirs = data.get(owner, {}).get(name)
            whole = f"data.{owner}.{name}"
            if theirs is None:
                rows.setdefault(f"{whole}: no policy here has such data", reference.row)
            elif key not in theirs:
                rows.setdefault(f"{whole} has no key {key}{meant(key, theirs)}", reference.row)
    for text, row in rows.items():
        yield Problem("warning", module.file, row, f"{text}; without it the rule is silently off")


def _holds(entry: PolicyEntry, policy: PolicySources) -> Iterator[Problem]:
    """What would be refused when the bundle is loaded."""
    row = row_of(policy, "hold")
    if row == 1:
        row = row_of(policy, "patterns")
    for stage in TEXT_STAGES:
        if stage in entry.stages:
            try:
                require_hold(entry, stage, shipped_patterns(entry.patterns))
            except HoldError as error:
                yield Problem("error", main_file(policy), row, str(error))


def _masks(entry: PolicyEntry, policy: PolicySources) -> Iterator[Problem]:
    """What a policy that redacts cannot mask in a stream, where it redacts nothing but texts."""
    place = main_file(policy), row_of(policy, "hold")
    for stage in TEXT_STAGES if set(entry.stages) <= set(TEXT_STAGES) else ():
        hold = hold_of(entry, stage)
        if stage not in entry.stages or hold is None:
            continue
        wide = too_wide_to_mask(entry, shipped_patterns(entry.patterns), hold) if hold else []
        if not hold:
            yield Problem("warning", *place, f"redacts {stage.value} and holds none: a stream is ended, not masked")
        elif wide:
            listed = ", ".join(wide)
            yield Problem("warning", *place, f"hold tail({hold}) is too short to mask {listed}: that ends a stream")


def _needs(entry: PolicyEntry, policy: PolicySources) -> Iterator[Problem]:
    """A policy that needs data that nobody can find would never be asked."""
    for key in entry.needs:
        if key not in (policy.data or {}):
            text = f"needs {key}, but its data.json has none; write it there, empty or not"
            yield Problem("error", main_file(policy), row_of(policy, "needs"), text)


def _compiler_problems(tree: SourceTree, opa: OpaTool) -> Iterator[Problem]:
    """OPA's strict compiler with the input's schema."""
    with tempfile.TemporaryDirectory(prefix="interlock-check-") as name:
        folder = Path(name)
        for file, path in (tree.modules() | tree.tests()).items():
            target = folder / "src" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(path.read_text("utf-8"), "utf-8")
        schema = folder / "input.json"
        schema.write_text(json.dumps(without_null(json.loads(INPUT_SCHEMA.read_text("utf-8")))), "utf-8")
        try:
            opa.run("check", "--strict", "--format", "json", "--schema", schema, folder / "src")
        except OpaFailedError as error:
            yield from _opa_problems(str(error), folder / "src")


def _opa_problems(text: str, root: Path) -> Iterator[Problem]:
    try:
        errors = json.loads(text)["errors"]
    except (ValueError, KeyError, TypeError):
        yield Problem("error", "", 0, text)
        return
    for error in errors:
        where = error.get("location") or {}
        file = str(where.get("file", ""))
        named = Path(file).relative_to(root).as_posix() if file.startswith(str(root)) else file
        details = error.get("details") or {}
        wanted = details.get("oneOf") if isinstance(details, dict) else None
        message = str(error.get("message", text))
        hint = meant(message.rpartition(".")[2], [*map(str, wanted)]) if wanted else ""
        yield Problem("error", named, int(where.get("row", 0)), f"{message}{hint}")


def without_null(schema: Any) -> Any:
    """The schema with ``X or null`` read as ``X``: OPA checks no names below an alternative, and which parts are
    null follows from the stage."""
    if isinstance(schema, list):
        return [without_null(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    choices = [item for item in schema.get("anyOf", []) if item != {"type": "null"}]
    if len(choices) == 1:
        rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
        return without_null({**rest, **choices[0]})
    return {key: without_null(value) for key, value in schema.items()}


def _host_builtins(
    tree: SourceTree, entries: list[PolicyEntry], modules: Mapping[str, Module], opa: OpaTool
) -> Iterator[Problem]:
    """What the compiled module would have to ask its host for: every such builtin, with the lines that use it."""
    sources = {name: path.read_text("utf-8") for name, path in tree.modules().items()}
    sources["entry.rego"] = entry_source(entries)
    wasm = compile_wasm(sources, tree.data(), entrypoints_of(entries), opa)
    module = OpaWasmPolicy.from_wasm_bytes(wasm, PolicyConfig(pool_size=1, max_memory_pages=_embedded.MEMORY_PAGES))
    needed = set(module.builtins)
    module.close()
    for file, parsed in sorted(modules.items()):
        for bodies in parsed.rules.values():
            for reference in references(bodies, file):
                name = ".".join((reference.head, *reference.path))
                if name in needed or refused(name, file):
                    yield Problem("error", file, reference.row, f"builtin {name} is refused: {why(name)}")


def _handed_over(module: Module) -> list[Problem]:
    found: dict[tuple[int, str], Problem] = {}
    for bodies in module.rules.values():
        for rule in bodies:
            tainted = _argument_variables(rule, module)
            for row, name, operands in builtin_calls(rule, module):
                if name in _TAKES_ANY_TYPE or not any(_is_argument(item, module, tainted) for item in operands):
                    continue
                text = (
                    f"an argument value is handed to {name}: if it is not of the type that {name} takes, the rule "
                    "is silently off; take the strings from data.interlock.lib.values"
                )
                found[(row, name)] = Problem("warning", module.file, row, text)
    return list(found.values())


def _is_argument(term: Tree, module: Module, tainted: set[str]) -> bool:
    if not isinstance(term, dict):
        return False
    if term.get("type") == "var":
        return term["value"] in tainted
    if term.get("type") != "ref":
        return False
    steps = [step.get("value") for step in term["value"]]
    head = str(steps[0])
    if head in tainted:
        return True
    path = [*module.imports.get(head, head).split("."), *steps[1:]]
    return path[:3] == ["input", "call", "arguments"]


def _argument_variables(rule: Tree, module: Module) -> set[str]:
    """Variables of a rule that stand for an argument value: ``x := input.call.arguments.cmd``, ``some x in …``,
    and what is taken from such a variable in turn."""
    tainted: set[str] = set()
    while True:
        before = len(tainted)
        for _, name, operands in builtin_calls(rule, module):
            targets: list[Tree] = []
            if name in ("assign", "eq") and len(operands) == 2 and _is_argument(operands[1], module, tainted):
                targets = operands[:1]
            elif name.startswith("internal.member_") and _is_argument(operands[-1], module, tainted):
                targets = operands[:-1]
            tainted |= {t["value"] for t in targets if isinstance(t, dict) and t.get("type") == "var"}
        if len(tainted) == before:
            return tainted


def builtin_calls(tree: Tree, module: Module) -> Iterator[tuple[int, str, list[Tree]]]:
    """Row, name and operands of every call below ``tree`` that is no call of a rule or an import."""
    if isinstance(tree, list):
        for item in tree:
            yield from builtin_calls(item, module)
        return
    if not isinstance(tree, dict):
        return
    call = tree.get("value") if tree.get("type") == "call" else tree.get("terms")
    if isinstance(call, list) and call and call[0].get("type") == "ref":
        head = str(call[0]["value"][0]["value"])
        if head not in module.imports and head not in module.rules and head not in ("data", "input"):
            name = ".".join(str(step["value"]) for step in call[0]["value"])
            row = (call[0].get("location") or tree.get("location") or {}).get("row", 0)
            yield int(row), name, call[1:]
    for key, part in tree.items():
        if key not in ("location", "annotations"):
            yield from builtin_calls(part, module)
