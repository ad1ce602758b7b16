"""The policies that docs/policies.md writes work when their files are copied from the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policies.authoring.build import build
from policies.authoring.check import check
from policies.authoring.opa_tool import OpaTool
from policies.authoring.sources import tree_to_build
from policies.authoring.testing import run_tests
from policies.engines.embedded import EmbeddedEngine
from policies.model import Mode, Stage
from policies.service import PolicySet
from tests.policies.support import write_policies

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.opa
def test_the_policies_of_the_page_check_test_and_build(opa_binary: Path, tmp_path: Path) -> None:
    policy, test, text_policy, text_test, *_ = blocks("rego")
    (data,) = blocks("json")
    root = write_policies(
        tmp_path,
        {
            "acme/deploys/policy.rego": policy,
            "acme/deploys/policy_test.rego": test,
            "acme/deploys/data.json": data,
            "acme/addresses/policy.rego": text_policy,
            "acme/addresses/policy_test.rego": text_test,
        },
    )
    opa = OpaTool(opa_binary)
    tree = tree_to_build(root, with_library=False)
    assert check(tree, opa).problems == []
    results = run_tests(tree, opa)
    assert len(results) == 5
    assert all(result.ok for result in results), results
    bundle = build(tree, opa)
    assert [entry.title for entry in bundle.policies] == [
        "No e-mail addresses in answers",
        "Only release agents deploy",
    ]
    rule = PolicySet(bundle, EmbeddedEngine(bundle, 20), {"acme.addresses": Mode.ENFORCE}).text_rule(Stage.OUTPUT)
    assert rule is not None and (rule.hold, rule.holds) == (345, True)
