"""Run the ``test_…`` rules of the policies on both engines, and say where they disagree.

OPA's own test runner is one engine. For the other, the same test rules are compiled as entrypoints and evaluated
by the embedded engine: what a policy was tested with is then what it is run with.
"""

from __future__ import annotations

import json
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
SECONDS = 60.0


@dataclass(frozen=True)
class TestResult:
    """One test rule: its package and name, and what each engine says."""

    __test__ = False

    package: str
    name: str
    opa: Outcome
    embedded: Outcome

    @property
    def ok(self) -> bool:
        return self.opa == self.embedded == "pass"

    @property
    def disagree(self) -> bool:
        return self.opa != self.embedded


def run_tests(tree: SourceTree, opa: OpaTool) -> list[TestResult]:
    """Every test of the tree on both engines, in order of package and name."""
    tests = {name: path for policy in tree.policies.values() for name, path in policy.tests.items()}
    if not tests:
        raise SourceError("there are no tests: write policy_test.rego beside a policy")
    files = tree.modules() | tests
    sources = {name: path.read_text("utf-8") for name, path in files.items()}
    data = test_data(tree)
    modules = parse_modules(tests, opa)
    rules = sorted(
        {(module.package, rule) for module in modules.values() for rule in module.rules if rule.startswith("test_")}
    )
    by_server = _opa_outcomes(sources, data, opa)
    by_wasm = _embedded_outcomes(sources, data, rules, opa)
    return [
        TestResult(package, name, by_server.get((package, name), "missing"), by_wasm[(package, name)])
        for package, name in rules
    ]


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


def _opa_outcomes(sources: Mapping[str, str], data: Mapping[str, Any], opa: OpaTool) -> dict[tuple[str, str], Outcome]:
    with tempfile.TemporaryDirectory(prefix="interlock-test-") as name:
        stage_files(Path(name), sources, data)
        text = opa.run("test", "--format", "json", "--timeout", f"{SECONDS:.0f}s", name, check=False)
    try:
        results = json.loads(text) or []
    except ValueError as error:
        raise SourceError(f"opa test: {text.strip()[:2000]}") from error
    if isinstance(results, dict):
        raise SourceError(f"opa test: {json.dumps(results)[:2000]}")
    outcomes: dict[tuple[str, str], Outcome] = {}
    for result in results:
        outcome: Outcome = "error" if result.get("error") else "fail" if result.get("fail") else "pass"
        outcomes[(str(result["package"]).removeprefix("data."), str(result["name"]))] = outcome
    return outcomes


def _embedded_outcomes(
    sources: Mapping[str, str], data: Mapping[str, Any], rules: list[tuple[str, str]], opa: OpaTool
) -> dict[tuple[str, str], Outcome]:
    entrypoints = {rule: f"{rule[0]}.{rule[1]}".replace(".", "/") for rule in rules}
    wasm = compile_wasm(sources, data, list(entrypoints.values()), opa)
    config = PolicyConfig(pool_size=1, max_memory_pages=_embedded.MEMORY_PAGES * 4, eval_timeout_seconds=SECONDS)
    module = OpaWasmPolicy.from_wasm_bytes(wasm, config)
    try:
        module.set_data(json.dumps(data))
        return {rule: _outcome(module, entrypoint) for rule, entrypoint in entrypoints.items()}
    finally:
        module.close()


def _outcome(module: OpaWasmPolicy, entrypoint: str) -> Outcome:
    try:
        answer = module.evaluate({}, entrypoint)
    except OpaWasmError:
        return "error"
    return "fail" if answer is UNDEFINED or answer is False else "pass"
