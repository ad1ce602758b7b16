"""Policies about text, from their source to what the proxy is told: what they hold, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.authoring.check import check
from policies.authoring.opa_tool import OpaTool
from policies.authoring.sources import SourceError, tree_to_build
from policies.bundle import Bundle
from policies.engines.embedded import EmbeddedEngine
from policies.model import Mode, Stage
from policies.service import PolicySet
from policies.text_rules import HoldError
from tests.policies.support import built, write_policies

pytestmark = pytest.mark.opa

SOURCE = """\
# METADATA
# title: Keys in answers
# custom:
{custom}
package interlock.policies.acme.keys

finding := {{"id": "key", "severity": "high", "action": "deny", "message": "It named a key.", "tags": []}}

output contains finding if {{
	some signal in input.signals
	signal.set == "secrets"
}}

reasoning contains finding if contains(input.surface.text, "the key is")
"""


def source(*custom: str) -> str:
    return SOURCE.format(custom="\n".join(f"#   {line}" for line in custom or ("severity: high",)))


def keys(opa_binary: Path, root: Path, *custom: str) -> Bundle:
    return built(opa_binary, root, {"acme/keys/policy.rego": source(*custom)})


def test_the_manifest_says_what_is_held_and_asked_for(opa_binary: Path, tmp_path: Path) -> None:
    both = keys(opa_binary, tmp_path, "hold: all", "patterns: [secrets/github_token]").policy("acme.keys")
    assert both.holds == {Stage.OUTPUT: "all", Stage.REASONING: "all"}
    assert both.patterns == ["secrets/github_token"]
    assert both.stages == {Stage.OUTPUT: ["signals"], Stage.REASONING: ["surface.text"]}
    one = keys(opa_binary, tmp_path, "hold: {output: tail(300)}").policy("acme.keys")
    assert one.holds == {Stage.OUTPUT: "tail(300)"}
    assert keys(opa_binary, tmp_path).policy("acme.keys").holds == {}


@pytest.mark.parametrize(
    ("custom", "said"),
    [
        ("hold: tail", "hold.reasoning|hold.output"),
        ("hold: {tool_call: all}", "no text to hold"),
        ("hold: {answer: all}", "hold.answer"),
        ("patterns: ['a secret']", "patterns.0"),
    ],
)
def test_metadata_that_say_what_cannot_be_are_refused(opa_binary: Path, tmp_path: Path, custom: str, said: str) -> None:
    with pytest.raises(SourceError, match=rf"policy\.rego:\d+: metadata: .*(?:{said})"):
        keys(opa_binary, tmp_path, custom)


def test_the_check_and_the_load_refuse_a_hold_that_is_too_short(opa_binary: Path, tmp_path: Path) -> None:
    bundle = keys(opa_binary, tmp_path, "hold: {output: tail(200)}", "patterns: [secrets]")
    said = r"acme\.keys: hold tail\(200\) at stage output is too short .*secrets/github_token \(259\)"
    with pytest.raises(HoldError, match=said):
        PolicySet(bundle, EmbeddedEngine(bundle, 20), {"acme.keys": Mode.SHADOW})
    write_policies(tmp_path, {"acme/keys/policy_test.rego": "package interlock.policies.acme.keys_test\n"})
    (problem,) = check(tree_to_build(tmp_path, with_library=False), OpaTool(opa_binary)).problems
    assert (problem.level, problem.file) == ("error", "acme/keys/policy.rego")
    assert "secrets/github_token (259)" in problem.text
    switched_off = PolicySet(bundle, EmbeddedEngine(bundle, 20), {})
    assert switched_off.text_rule(Stage.OUTPUT) is None


def test_a_policy_in_force_says_what_the_proxy_has_to_do(opa_binary: Path, tmp_path: Path) -> None:
    custom = ("hold: {output: tail(300), reasoning: all}", "patterns: [secrets/github_token]")
    bundle = keys(opa_binary, tmp_path, *custom)
    policies = PolicySet(bundle, EmbeddedEngine(bundle, 20), {"acme.keys": Mode.ENFORCE})
    output, reasoning = policies.text_rule(Stage.OUTPUT), policies.text_rule(Stage.REASONING)
    assert output is not None and reasoning is not None
    assert (output.hold, output.holds, output.at_end, output.text) == (300, True, False, False)
    assert (reasoning.hold, reasoning.holds, reasoning.at_end, reasoning.text) == (None, True, True, True)
    assert output.scanner is not None and reasoning.scanner is None
    assert policies.reads_field(Stage.REASONING, "surface.text")
