"""Every builtin that the library's policies use gives the same on both engines, whatever its arguments are; the helpers
that stand before the others make them so. No builtin is the host's own: a bundle that needs one is refused."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from opapywasm import OpaWasmPolicy, PolicyConfig

from policies.authoring.build import compile_wasm, parse_modules, stage_files
from policies.authoring.check import builtin_calls
from policies.authoring.opa_tool import OpaTool
from policies.authoring.sources import LIBRARY, tree_to_build
from policies.bundle import Bundle
from policies.engines.embedded import MEMORY_PAGES
from policies.engines.quick import QuickModule
from tests.policies.odd_inputs import NUMBERS, TEXTS

pytestmark = pytest.mark.opa

CASES = 150
PATTERNS = [
    r"^a*$",
    r"(?i)rm\s+-rf",
    r"[^\PL\p{Latin}]",
    r"\bé",
    r"(a)|(b)",
    r"",
    r"(",
    r"a{2,3}?",
    r"^\s*\S+$",
    r"[0-9]+(?:\.[0-9]+){3}",
    r"(?s).",
    r"\x00",
]
GLOBS = ["*", "", "a*", "*é*", "/etc/*", "rm", "*.*", "**", "a\\*", "[", "?", "{a,b}"]
NETWORKS = ["10.0.0.0/8", "169.254.0.0/16", "0.0.0.0/0", "1.2.3.4", "10.0.0.0/33", "x", ""]
ADDRESSES = ["169.254.169.254", "10.1.2.3", "255.255.255.255", "1.2.3", "01.2.3.4", "x", ""]
BY_KIND: dict[str, list[Any]] = {
    "text": [*TEXTS, 7, None, ["a"], {}],
    "needle": [*(text for text in TEXTS if text), 7, None],  # the embedded engine looks for an empty text without end
    "number": [*NUMBERS, "1", None],
    "whole": [
        0,
        1,
        2,
        3,
        7,
        255,
        65536,
        2**31,
    ],  # the embedded engine stops at other types; fractions have other digits
    "small": [0, 1, 2, 3, 7, -1, 1.5, "1", None],
    "texts": [[], ["a"], ["a", "b", "é"], ["", "\x00"], ["a", 1], "x", None],
    "list": [[], [1, "a", None], [[1], {"a": 2}], "x", 7, {}, None],
    "numbers": [[], [1, 2, 3], [0.1, 0.2], [5e-324], [-1, 2**31], ["a"], "x", None],
    "object": [{}, {"a": 1}, {"a": {"b": 1}, "c": [1]}, {"é": "\x00"}, [], "x", None],
    "pairs": [{}, {"a": "b"}, {"/": "", ".": "/"}, {"é": "e", "🙂": ":)"}, {"a": 1}, "x", None],
    "pattern": PATTERNS,
    "glob": GLOBS,
    "network": NETWORKS,
    "address": ADDRESSES,
    "any": [*NUMBERS, *TEXTS, None, True, [], {}, ["a", {"b": [1]}]],
    "none": [None],
    "all": [-1],
    "base": [2, 8, 10, 16, 3, "x"],
}
TAKES: dict[str, list[str]] = {
    "array.concat": ["list", "list"],
    "array.slice": ["list", "small", "small"],
    "concat": ["text", "texts"],
    "contains": ["text", "text"],
    "count": ["any"],
    "div": ["whole", "whole"],
    "endswith": ["text", "text"],
    "floor": ["whole"],
    "format_int": ["small", "base"],
    "glob.match": ["glob", "none", "text"],
    "indexof": ["text", "needle"],
    "is_array": ["any"],
    "is_number": ["any"],
    "is_object": ["any"],
    "is_string": ["any"],
    "lower": ["text"],
    "max": ["numbers"],
    "min": ["numbers"],
    "minus": ["whole", "whole"],
    "mul": ["whole", "whole"],
    "net.cidr_contains": ["network", "address"],
    "numbers.range": ["small", "small"],
    "object.union": ["object", "object"],
    "plus": ["whole", "whole"],
    "regex.find_all_string_submatch_n": ["pattern", "text", "all"],
    "regex.match": ["pattern", "text"],
    "rem": ["whole", "whole"],
    "replace": ["text", "needle", "text"],
    "split": ["text", "text"],
    "startswith": ["text", "text"],
    "strings.replace_n": ["pairs", "text"],
    "substring": ["text", "small", "small"],
    "sum": ["numbers"],
    "trim": ["text", "text"],
    "trim_left": ["text", "text"],
    "trim_prefix": ["text", "text"],
    "trim_right": ["text", "text"],
    "trim_space": ["text"],
    "trim_suffix": ["text", "text"],
}
"""The builtins that the library hands values to, and what kinds of values; most kinds have some of another type, too. A
kind is as narrow as what the library hands over: beyond that the engines differ, as the remarks beside the kinds say.
IPv6 is another such thing: `net.cidr_contains` takes mapped addresses for IPv6 on one engine only."""

OF_THE_LANGUAGE = {
    "assign",
    "eq",
    "equal",
    "neq",
    "lt",
    "lte",
    "gt",
    "gte",
    "or",
    "and",
    "internal.member_2",
    "internal.member_3",
    "walk",
}
GUARDED = {"json.unmarshal", "to_number"}
"""Those that differ between the engines, which the helpers hand only what both take alike."""

OPERATORS = {"div": "floor({} / {})", "minus": "{} - {}", "mul": "{} * {}", "plus": "{} + {}", "rem": "{} % {}"}
VALUES = """\
package t

import data.interlock.lib.values

decoded := [values.decoded(text) | some text in input.texts]

literals := [values.literals(text) | some text in input.texts]

of_json := [[value | value := values.from_json(text)] | some text in input.texts]

numbers := [[value | value := values.number(text)] | some text in input.texts]
"""
BITS = [
    '"',
    "\\",
    "\\ud800",
    "\\udc00",
    "\\u0041",
    "\\n",
    "\\q",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    " ",
    "1",
    "01",
    "-0",
    "1e5",
    "1e400",
    "1.",
    "true",
    "nul",
    "null",
    "é",
    "🙂",
    "\x00",
    "\t",
    "rm -rf",
    '"a"',
    '"k":',
    '["x"]',
    '\\"',
    "\\uD83D\\uDE00",
    "\\u",
    "+",
    "Infinity",
    "NaN",
]


def test_the_table_has_every_builtin_that_the_library_uses(opa_binary: Path) -> None:
    modules = parse_modules(tree_to_build(None).modules(), OpaTool(opa_binary))
    own = {name for module in modules.values() for name in module.rules}
    used = {
        name
        for module in modules.values()
        for bodies in module.rules.values()
        for rule in bodies
        for _, name, _ in builtin_calls(rule, module)
    } - own
    assert used - OF_THE_LANGUAGE - GUARDED == set(TAKES)


def test_no_builtin_is_asked_of_the_host() -> None:
    bundle = Bundle.load()
    module = QuickModule(bundle.wasm, b"{}", PolicyConfig())
    assert module.missing_builtins == []
    with OpaWasmPolicy.from_wasm_bytes(bundle.wasm, PolicyConfig(max_memory_pages=MEMORY_PAGES)) as policy:
        assert list(policy.builtins) == []
    module.close()


def test_every_builtin_gives_the_same_on_both_engines(opa_binary: Path, tmp_path: Path) -> None:
    random = Random(20261121)
    rules = ["package t\n"]
    cases: dict[str, list[list[Any]]] = {}
    for name, kinds in TAKES.items():
        rule = "of_" + name.replace(".", "_")
        terms = [f"case[{at}]" for at in range(len(kinds))]
        said = OPERATORS[name].format(*terms) if name in OPERATORS else f"{name}({', '.join(terms)})"
        rules.append(f"{rule} := [[value | value := {said}] | some case in input.{rule}]\n")
        cases[rule] = [[random.choice(BY_KIND[kind]) for kind in kinds] for _ in range(CASES)]
    served, embedded = on_both(opa_binary, tmp_path, {"t.rego": "\n".join(rules)}, cases)
    for rule, asked in cases.items():
        assert any(served[rule]), rule
        for case, there, here in zip(asked, served[rule], embedded[rule], strict=True):
            assert there == here, (rule, case)


def test_the_helpers_read_text_alike_on_both_engines_and_as_json_does(opa_binary: Path, tmp_path: Path) -> None:
    random = Random(20261121)
    made = ["".join(random.choice(BITS) for _ in range(random.randint(0, 9))) for _ in range(2_000)]
    plain = [
        json.dumps(_value(random), ensure_ascii=random.random() < 0.5, indent=random.choice([None, 1]))
        for _ in range(800)
    ]
    for text in plain:
        at = random.randint(0, len(text))
        made.append(text[:at] + random.choice(BITS) + text[at + random.randint(0, 1) :])
    values = (LIBRARY / "lib" / "values.rego").read_text("utf-8")
    sources = {"lib/values.rego": values, "t.rego": VALUES}
    served, embedded = on_both(opa_binary, tmp_path, sources, {"texts": [*made, *plain]})
    for rule in ("decoded", "literals", "of_json", "numbers"):
        for text, there, here in zip([*made, *plain], served[rule], embedded[rule], strict=True):
            assert there == here, (rule, text)
    assert served["of_json"][len(made) :] == [[json.loads(text)] for text in plain]
    for text, found in zip(made, served["of_json"], strict=False):
        if found:
            json.loads(text)


def on_both(
    opa_binary: Path, folder: Path, sources: dict[str, str], asked: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """``data.t`` for one input: by ``opa eval``, and by the compiled module."""
    opa = OpaTool(opa_binary)
    stage_files(folder / "src", sources, {})
    (folder / "input.json").write_text(json.dumps(asked), "utf-8")
    said = opa.run("eval", "-b", folder / "src", "-i", folder / "input.json", "data.t")
    served: dict[str, Any] = json.loads(said)["result"][0]["expressions"][0]["value"]
    config = PolicyConfig(max_memory_pages=MEMORY_PAGES, eval_timeout_seconds=60, max_input_bytes=1 << 24)
    with OpaWasmPolicy.from_wasm_bytes(
        compile_wasm(sources, {}, [f"t/{rule}" for rule in served], opa), config
    ) as module:
        module.set_data("{}")
        return served, {rule: module.evaluate(asked, f"t/{rule}") for rule in served}


def _value(random: Random, depth: int = 0) -> Any:
    kind = random.randint(0, 6)
    if depth > 3 or kind < 3:
        return random.choice(["a", "rm", 1, 0, -5, 1.5, True, None, 'é"\\', "🙂\n", ""])
    if kind < 5:
        return [_value(random, depth + 1) for _ in range(random.randint(0, 3))]
    return {random.choice("abc"): _value(random, depth + 1) for _ in range(random.randint(0, 3))}
