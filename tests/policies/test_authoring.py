"""Building, checking and testing policies, as `interlock policy …` does it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from policies.authoring.build import build
from policies.authoring.check import check, without_null
from policies.authoring.cli import add_policy_commands
from policies.authoring.opa_tool import VARIABLE, OpaFailedError, OpaTool
from policies.authoring.sources import SourceError, read_tree, tree_to_build
from policies.authoring.testing import run_tests
from policies.bundle import Bundle, BundleError, merged
from policies.schemas import FOLDER, schemas
from tests.policies.support import ALWAYS, built, write_policies

pytestmark = pytest.mark.opa

POLICY = ALWAYS.format(name="seen", action="flag")
TEST = """\
package interlock.policies.acme.seen_test

import data.interlock.policies.acme.seen

test_a_call_is_seen if count(seen.tool_call) == 1 with input as {"call": {"name": "x"}}

test_the_cases_are_data if data.acme.seen.names == ["x"]

test_the_data_is_there if data.acme.seen.limit == 3
"""
TREE = {
    "acme/seen/policy.rego": POLICY,
    "acme/seen/policy_test.rego": TEST,
    "acme/seen/data.json": '{"limit": 3}',
    "acme/seen/cases.json": '{"names": ["x"]}',
}


def rego(body: str, name: str = "seen") -> str:
    finding = '{"id": "x", "severity": "low", "action": "flag", "message": "x", "tags": []}'
    return f"package interlock.policies.acme.{name}\n\ntool_call contains {finding} if {{\n{body}\n}}\n"


def interlock(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_policy_commands(parser.add_subparsers())
    arguments = parser.parse_args(["policy", *map(str, words)])
    status: int = arguments.run(arguments)
    return status


@pytest.fixture
def opa(opa_binary: Path, monkeypatch: pytest.MonkeyPatch) -> OpaTool:
    monkeypatch.setenv(VARIABLE, str(opa_binary))
    return OpaTool(opa_binary)


def reads(opa: OpaTool, root: Path, body: str, extra: dict[str, str] | None = None) -> list[str]:
    files = {"acme/seen/policy.rego": rego(body)} | (extra or {})
    (entry,) = built(opa.path, root, files).policies
    (fields,) = entry.stages.values()
    return fields


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ('input.call.name == "x"', ["call.name"]),
        ('c := input.call; c.name == "x"', ["call"]),
        ("some s in input.signals; s.severity == input.identity.agent", ["identity.agent", "signals"]),
        ('input.run.recent_calls[_].name == "x"', ["run.recent_calls"]),
        ("some k; input[k] == 1", ["*"]),
        ("walk(input, [_, 1])", ["*"]),
        ("object.get(input, [`run`, `step`], 0) == 1", ["*"]),
        ("object.get(input.run, `step`, 0) == 1", ["run"]),
        ("every x in input.budgets { x.used < 3 }", ["budgets"]),
        ("count({x | some x in input.checks}) > 0", ["checks"]),
        ("true", []),
    ],
)
def test_what_a_policy_reads_is_told_from_its_references(
    opa: OpaTool, tmp_path: Path, body: str, fields: list[str]
) -> None:
    assert reads(opa, tmp_path, body) == fields


def test_reads_follow_helpers_functions_imports_and_else(opa: OpaTool, tmp_path: Path) -> None:
    helper = """\
package interlock.policies.acme.seen

import input.identity as who
import data.interlock.lib.mine

late if input.time == "x"

else if input.run.step > 3

named(text) if text == who.agent
"""
    lib = "package interlock.lib.mine\n\nmany if count(input.request.tools) > 3\n"
    extra = {"acme/seen/helper.rego": helper, "lib/mine.rego": lib}
    body = 'late; named("x"); data.interlock.lib.mine.many'
    assert reads(opa, tmp_path, body, extra) == ["identity.agent", "request.tools", "run.step", "time"]


def test_a_built_bundle_loads_again_as_folder_and_archive(opa: OpaTool, tmp_path: Path) -> None:
    root = write_policies(tmp_path / "mine", TREE)
    assert interlock("build", root, "-o", tmp_path / "out") == 0
    assert interlock("build", root, "-o", tmp_path / "out.tar.gz") == 0
    folder, archive = Bundle.load(tmp_path / "out"), Bundle.load(tmp_path / "out.tar.gz")
    assert folder.digest == archive.digest
    assert folder.files() == archive.files()
    assert {entry.name for entry in folder.policies} >= {"acme.seen", "interlock.shell"}
    assert folder.data["acme"] == {"seen": {"limit": 3}}
    own = json.loads((tmp_path / "out" / ".manifest").read_text())
    assert own["revision"] == folder.digest
    assert own["roots"] == ["acme", "interlock"]


def test_a_library_policy_is_replaced_by_one_of_the_same_name(opa: OpaTool, tmp_path: Path) -> None:
    changed = ALWAYS.replace("acme.{name}", "interlock.tools").format(name="mine", action="flag")
    root = write_policies(tmp_path / "mine", {"interlock/tools/policy.rego": changed})
    tree = tree_to_build(root)
    assert list(tree.policies["interlock.tools"].modules.values()) == [root / "interlock/tools/policy.rego"]
    assert set(tree.policies) == set(tree_to_build(None).policies)


def test_a_changed_file_of_a_bundle_is_refused_at_load(opa: OpaTool, tmp_path: Path) -> None:
    files = built(opa.path, tmp_path, TREE).files()
    for name in ("acme/seen/policy.rego", "data.json", "policy.wasm"):
        changed = files | {name: files[name].replace(b"3", b"4") if name == "data.json" else files[name] + b"\n"}
        with pytest.raises(BundleError, match="build it again"):
            Bundle.from_files(changed, "here")
    for name in ("manifest.json", "data.json", "policy.wasm"):
        with pytest.raises(BundleError, match=name):
            Bundle.from_files({key: text for key, text in files.items() if key != name}, "here")


def test_a_folder_that_is_no_bundle_is_not_written_over(opa: OpaTool, tmp_path: Path) -> None:
    bundle = built(opa.path, tmp_path / "mine", TREE)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("x")
    with pytest.raises(BundleError, match="no bundle"):
        bundle.write(tmp_path / "home")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letter.txt"]


def test_settings_data_is_merged_and_changes_the_digest(opa: OpaTool, tmp_path: Path) -> None:
    bundle = built(opa.path, tmp_path, TREE)
    other = bundle.with_data({"acme.seen": {"extra": {"a": 1}}})
    assert other.data["acme"] == {"seen": {"limit": 3, "extra": {"a": 1}}}
    assert other.digest != bundle.digest
    assert bundle.with_data({}).digest == bundle.digest
    with pytest.raises(BundleError, match=r"acme\.unseen"):
        bundle.with_data({"acme.unseen": {}})


def test_objects_are_merged_and_anything_else_replaced() -> None:
    below = {"a": {"x": 1, "y": [1]}, "b": 1}
    assert merged(below, {"a": {"y": [2], "z": 3}}) == {"a": {"x": 1, "y": [2], "z": 3}, "b": 1}
    assert merged(below, {"a": None}) == {"a": None, "b": 1}


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"acme/policy.rego": POLICY}, "<owner>/<name>"),
        ({"acme/Seen/policy.rego": POLICY}, "no name"),
        ({"acme/a__b/policy.rego": POLICY}, "no name"),
        ({"acme/seen/data.json": "{}"}, "no policy.rego"),
        ({"acme/seen/policy.rego": POLICY, "acme/seen/data.json": "[]"}, "must be an object"),
        ({"interlock/lib/policy.rego": POLICY}, "reserved"),
    ],
)
def test_a_tree_that_is_laid_out_wrong_is_refused_by_name(
    opa: OpaTool, tmp_path: Path, files: dict[str, str], text: str
) -> None:
    with pytest.raises(SourceError, match=text):
        read_tree(write_policies(tmp_path, files))


def test_a_module_of_another_package_or_without_a_stage_is_refused(opa: OpaTool, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected package interlock\.policies\.acme\.other"):
        built(opa.path, tmp_path / "a", {"acme/other/policy.rego": POLICY})
    with pytest.raises(SourceError, match="no stage"):
        built(opa.path, tmp_path / "b", {"acme/seen/policy.rego": "package interlock.policies.acme.seen\n\nx := 1\n"})
    with pytest.raises(OpaFailedError, match=r"policy\.rego:1"):
        built(opa.path, tmp_path / "c", {"acme/seen/policy.rego": "packag x"})


def problems(opa: OpaTool, root: Path, body: str) -> list[tuple[str, int, str]]:
    tree = tree_to_build(write_policies(root, {"acme/seen/policy.rego": rego(body)}), with_library=False)
    report = check(tree, opa)
    return [(p.level, p.row, p.text) for p in report.problems if "no test" not in p.text]


@pytest.mark.parametrize(
    ("body", "level", "text"),
    [
        ("input.call.nam == 1", "error", "input.call has no field nam; did you mean name"),
        ("input.call.zzz == 1", "error", "input.call has no field zzz; there are: arguments, changed, choice"),
        ("input.nothing", "error", "input has no field nothing; there are: budgets, call"),
        ("input.run.recent_calls.x == 1", "error", "undefined ref: input.run.recent_calls.x"),
        ('some s in input.signals; s.sett == "x"', "error", "undefined ref: s.sett; did you mean set"),
        ("time.now_ns() > 0", "error", "time.now_ns is refused: a decision depends on nothing but"),
        ('http.send({"url": input.call.name}).status == 1', "error", "http.send is refused"),
        ('uuid.rfc4122("x") == "y"', "error", "uuid.rfc4122 is refused"),
        ('rand.intn("x", 2) == 1', "error", "rand.intn is refused"),
        ("opa.runtime().env", "error", "opa.runtime is refused"),
        ('sprintf("%v", [input.call.name]) == "x"', "error", "sprintf is refused: it prints numbers differently"),
        ('regex.replace(input.call.name, "a", "b") == "x"', "error", "regex.replace is refused: only a server"),
        ('contains(input.call.arguments.cmd, "rm")', "warning", "an argument value is handed to contains"),
        ('c := input.call.arguments.cmd; startswith(c, "rm")', "warning", "is handed to startswith"),
        ('some a in input.call.arguments; b := a.x; regex.match("rm", b)', "warning", "is handed to regex.match"),
    ],
)
def test_the_check_names_the_line_and_what_is_wrong(
    opa: OpaTool, tmp_path: Path, body: str, level: str, text: str
) -> None:
    found = problems(opa, tmp_path, body)
    assert [(entry[0], entry[1]) for entry in found] == [(level, 4)]
    assert text in found[0][2]


@pytest.mark.parametrize(
    "body",
    [
        'input.call.arguments.cmd == "rm"',
        "is_string(input.call.arguments.cmd)",
        'some s in data.interlock.lib.values.strings(input.call.arguments); contains(s, "rm")',
        'contains(input.call.name, "rm")',
    ],
)
def test_the_check_is_content_with_the_helper_and_with_comparisons(opa: OpaTool, tmp_path: Path, body: str) -> None:
    assert problems(opa, tmp_path, body) == []


def test_a_finding_that_cannot_be_one_is_named_part_by_part(opa: OpaTool, tmp_path: Path) -> None:
    text = """package interlock.policies.acme.seen

tool_call contains finding if {
	input.call.name == "x"
	finding := {
		"id": "Bad Id",
		"severity": "hihg",
		"action": "denny",
		"message": "No.",
		"tag": [],
	}
}

tool_call contains {"id": "x", "severity": "low", "action": "flag"} if input.call.complete
"""
    tree = tree_to_build(write_policies(tmp_path, {"acme/seen/policy.rego": text}), with_library=False)
    found = {(p.row, p.text) for p in check(tree, opa).problems if p.level == "error"}
    assert found == {
        (6, "id 'Bad Id': expected 1-64 of a-z, 0-9, '_', '.', '-'"),
        (7, "there is no severity hihg; did you mean high"),
        (8, "there is no action denny; did you mean deny"),
        (10, "a finding has no field tag; did you mean tags"),
        (14, "the finding has no message; it needs id, severity, message, action"),
    }


def test_what_a_policy_needs_stands_in_its_data(
    opa: OpaTool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs = "# METADATA\n# title: t\n# custom:\n#   needs: [limit, names]\n" + POLICY
    root = write_policies(tmp_path, TREE | {"acme/seen/policy.rego": needs})
    (problem,) = check(tree_to_build(root, with_library=False), opa).problems
    assert (problem.level, problem.text) == (
        "error",
        "needs names, but its data.json has none; write it there, empty or not",
    )
    (root / "acme/seen/data.json").write_text('{"limit": 3, "names": []}')
    assert interlock("check", root, "--no-library") == 0
    assert "idle without" in capsys.readouterr().out
    assert build(tree_to_build(root, with_library=False), opa).policy("acme.seen").needs == ["limit", "names"]


def test_examples_lie_beside_a_policy_and_are_in_no_bundle(opa: OpaTool, tmp_path: Path) -> None:
    root = write_policies(tmp_path, TREE | {"acme/seen/examples/stopped.json": "{}"})
    tree = tree_to_build(root, with_library=False)
    assert tree.policies["acme.seen"].examples == [root / "acme/seen/examples/stopped.json"]
    assert not any("examples" in name for name in build(tree, opa).files())
    with pytest.raises(SourceError, match=r"no policy\.rego"):
        read_tree(write_policies(tmp_path / "b", {"acme/other/examples/stopped.json": "{}"}))


def test_the_shipped_library_has_no_problem(opa: OpaTool, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tree_to_build(None), opa).problems == []


def test_the_commands_say_by_their_status_what_they_found(
    opa: OpaTool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_policies(tmp_path / "mine", TREE)
    assert interlock("check", root, "--no-library") == 0
    assert interlock("test", root, "--no-library", "-v") == 0
    assert "3 of 3 tests pass" in capsys.readouterr().out
    (root / "acme/seen/policy_test.rego").write_text(TEST.replace("== 3", "== 4"))
    assert interlock("test", root, "--no-library") == 1
    assert "test_the_data_is_there" in capsys.readouterr().out
    (root / "acme/seen/policy.rego").write_text(rego("input.nothing"))
    assert interlock("check", root, "--no-library") == 1
    assert "policy.rego:4: error: input has no field nothing" in capsys.readouterr().out
    assert interlock("check", tmp_path / "nowhere") == 2
    monkeypatch.setenv(VARIABLE, str(tmp_path / "no-opa"))
    assert interlock("test", root) == 2
    assert "is not a file" in capsys.readouterr().err


def test_a_test_that_the_engines_see_differently_is_said(opa: OpaTool, tmp_path: Path) -> None:
    test = TEST + '\ntest_numbers if sprintf("%v", [1.0]) == "1"\n'
    tree = tree_to_build(write_policies(tmp_path, TREE | {"acme/seen/policy_test.rego": test}), with_library=False)
    results = {result.name: result for result in run_tests(tree, opa)}
    assert results["test_numbers"].disagree
    assert (results["test_numbers"].opa, results["test_numbers"].embedded) == ("pass", "fail")
    assert results["test_a_call_is_seen"].ok


def test_the_published_schemas_are_current() -> None:
    for name, text in schemas().items():
        assert (FOLDER / name).read_text("utf-8") == text, f"{name} is stale: python -m policies.schemas"
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(schemas())


def test_null_is_taken_out_of_a_schema_where_one_alternative_is_left() -> None:
    optional = {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "T"}
    assert without_null({"properties": {"a": optional}}) == {"properties": {"a": {"type": "string", "title": "T"}}}
    both = {"anyOf": [{"type": "string"}, {"type": "integer"}]}
    assert without_null(both) == both


@pytest.mark.parametrize(
    ("hold", "patterns", "said"),
    [
        ("none", "pii/email", "redacts output and holds none: a stream is ended, not masked"),
        (
            "tail(8192)",
            "secrets/private_key",
            "hold tail(8192) is too short to mask secrets/private_key: that ends a stream",
        ),
        ("tail(345)", "pii/email", None),
        ("all", "secrets/private_key", None),
    ],
)
def test_it_says_what_a_policy_that_redacts_cannot_mask(
    tmp_path: Path, opa: OpaTool, hold: str, patterns: str, said: str | None
) -> None:
    policy = f"""\
# METADATA
# title: Masks
# custom:
#   hold: {hold}
#   patterns: [{patterns}]
package interlock.policies.acme.seen

output contains finding if {{
	some hit in input.signals
	finding := {{
		"id": "x",
		"severity": "low",
		"action": "redact",
		"message": "x",
		"tags": [],
		"redactions": [{{"path": hit.path, "start": hit.start, "end": hit.end}}],
	}}
}}
"""
    tested = "package interlock.policies.acme.seen_test\n\ntest_it if true\n"
    files = {"acme/seen/policy.rego": policy, "acme/seen/policy_test.rego": tested}
    root = write_policies(tmp_path, files)
    report = check(tree_to_build(root, with_library=False), opa)
    assert [problem.text for problem in report.problems] == ([said] if said else [])
    assert report.ok
