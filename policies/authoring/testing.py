"""Run the ``test_…`` rules of the policies on both engines, and say where they disagree.

OPA's own test runner is one engine. For the other, the same test rules are compiled as entrypoints and evaluated
by the embedded engine: what a policy was tested with is then what it is run with.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from opapywasm import UNDEFINED, OpaWasmError, OpaWasmPolicy, PolicyConfig

from policies.authoring.build import compile_wasm, parse_modules, stage_files
from policies.authoring.opa_tool import OpaTool
from policies.authoring.sources import SourceError, SourceTree, read_object
from policies.bundle import merged
from policies.engines import embedded as _embedded

Outcome = Literal["pass", "fail", "error", "missing"]
Rule = tuple[str, str]
"""A test's package and name."""

SECONDS = 60.0
_MOST = 40
_WIDE = 300
"""Lines that are told of one failure, and characters of each."""


@dataclass(frozen=True)
class TestResult:
    """One test rule: its package and name, and what each engine says. ``file`` is the path in the tree, ``row`` its
    line; ``why`` says of one that does not pass what was not true, with values, or what the engine said."""

    __test__ = False

    package: str
    name: str
    opa: Outcome
    embedded: Outcome
    file: str = ""
    row: int = 0
    why: str = ""

    @property
    def ok(self) -> bool:
        return self.opa == self.embedded == "pass"

    @property
    def disagree(self) -> bool:
        return self.opa != self.embedded


def run_tests(tree: SourceTree, opa: OpaTool) -> list[TestResult]:
    """Every test of the tree on both engines, in order of package and name."""
    tests = tree.tests()
    if not tests:
        raise SourceError("there are no tests: write policy_test.rego beside a policy")
    files = tree.modules() | tests
    sources = {name: path.read_text("utf-8") for name, path in files.items()}
    data = test_data(tree)
    modules = parse_modules(tests, opa)
    places = {
        (module.package, rule): (file, int((bodies[0]["head"].get("location") or {}).get("row", 0)))
        for file, module in modules.items()
        for rule, bodies in module.rules.items()
        if rule.startswith("test_")
    }
    rules = sorted(places)
    by_server, why = _opa_outcomes(sources, data, files, opa)
    by_wasm = _embedded_outcomes(sources, data, rules, opa)
    results = []
    for rule in rules:
        embedded, said = by_wasm[rule]
        reason = why.get(rule) or said or "  it is true on OPA, and not on the embedded engine"
        results.append(TestResult(*rule, by_server.get(rule, "missing"), embedded, *places[rule], reason))
    return results


def test_data(tree: SourceTree) -> dict[str, Any]:
    """The data document with the cases that lie beside the tests: ``acme/deploys/cases.json`` with ``{"good":
    […]}`` is ``data.acme.deploys.good``."""
    document: dict[str, Any] = tree.data()
    for policy in tree.policies.values():
        owner, _, short = policy.name.partition(".")
        for path in policy.cases:
            document = merged(document, {owner: {short: read_object(path)}})
    return document


test_data.__test__ = False  # type: ignore[attr-defined]


def _opa_outcomes(
    sources: Mapping[str, str], data: Mapping[str, Any], files: Mapping[str, Path], opa: OpaTool
) -> tuple[dict[Rule, Outcome], dict[Rule, str]]:
    """What OPA's runner says of each test, and why those are not well that are not."""
    timeout = ("--timeout", f"{SECONDS:.0f}s")
    with tempfile.TemporaryDirectory(prefix="interlock-test-") as name:
        folder = Path(name)
        stage_files(folder, sources, data)
        text = opa.run("test", "--format", "json", *timeout, ".", cwd=folder, check=False)
        try:
            results = json.loads(text) or []
        except ValueError:
            raise SourceError(_named(text.strip()[:2000], files)) from None
        if isinstance(results, dict):
            raise SourceError(f"opa test: {json.dumps(results)[:2000]}")
        outcomes: dict[Rule, Outcome] = {}
        why: dict[Rule, str] = {}
        for result in results:
            rule = (str(result["package"]).removeprefix("data."), str(result["name"]))
            error = result.get("error")
            outcomes[rule] = "error" if error else "fail" if result.get("fail") else "pass"
            if error:
                why[rule] = "  " + str(error.get("message", error) if isinstance(error, dict) else error)
        failed = [rule for rule, outcome in outcomes.items() if outcome == "fail"]
        if failed:
            pattern = "|".join(re.escape(f"data.{package}.{name}") for package, name in failed)
            shown = opa.run("test", "--var-values", *timeout, "--run", f"^({pattern})$", ".", cwd=folder, check=False)
            why |= _failures(_named(shown, files))
    return outcomes, why


def _failures(text: str) -> dict[Rule, str]:
    """Below its ruler OPA says of each test that failed which expression was not true, with its values."""
    found: dict[Rule, list[str]] = {}
    lines: list[str] = []
    margin: int | None = None
    for line in text.partition("\nFAILURES\n")[2].splitlines():
        if begins := re.fullmatch(r"data\.(\S+)\.(\S+): (?:FAIL|ERROR).*", line):
            lines = found.setdefault((begins[1], begins[2]), [])
        elif line.startswith("---"):
            lines = []
        elif place := re.fullmatch(r"\s+\S+:(\d+):", line):
            lines.append(f"  line {place[1]}:")
            margin = None
        elif line.strip():
            wide = line.expandtabs(4)
            margin = margin if margin is not None else len(wide) - len(wide.lstrip())
            lines.append("    " + (wide[margin:] if not wide[:margin].strip() else wide.lstrip())[:_WIDE])
    return {rule: "\n".join(said[:_MOST]) for rule, said in found.items()}


def _named(text: str, files: Mapping[str, Path]) -> str:
    """OPA's text with the author's files in place of those that it was shown."""
    for name, path in files.items():
        text = re.sub(rf"(?m)(^|(?<=\s)|(?<=: )){re.escape(name)}(?=:\d)", str(path).replace("\\", r"\\"), text)
    return text


def _embedded_outcomes(
    sources: Mapping[str, str], data: Mapping[str, Any], rules: list[Rule], opa: OpaTool
) -> dict[Rule, tuple[Outcome, str]]:
    entrypoints = {rule: f"{rule[0]}.{rule[1]}".replace(".", "/") for rule in rules}
    wasm = compile_wasm(sources, data, list(entrypoints.values()), opa)
    config = PolicyConfig(pool_size=1, max_memory_pages=_embedded.MEMORY_PAGES * 4, eval_timeout_seconds=SECONDS)
    module = OpaWasmPolicy.from_wasm_bytes(wasm, config)
    try:
        module.set_data(json.dumps(data))
        return {rule: _outcome(module, entrypoint) for rule, entrypoint in entrypoints.items()}
    finally:
        module.close()


def _outcome(module: OpaWasmPolicy, entrypoint: str) -> tuple[Outcome, str]:
    try:
        answer = module.evaluate({}, entrypoint)
    except OpaWasmError as error:
        return "error", f"  the embedded engine: {str(error).partition(';')[0][:_WIDE]}"
    return ("fail", "") if answer is UNDEFINED or answer is False else ("pass", "")
