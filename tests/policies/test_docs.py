"""The policy that docs/policies.md writes works when its files are copied from the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policies.authoring.build import build
from policies.authoring.check import check
from policies.authoring.opa_tool import OpaTool
from policies.authoring.sources import tree_to_build
from policies.authoring.testing import run_tests
from tests.policies.support import write_policies

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.opa
def test_the_policy_of_the_page_checks_tests_and_builds(opa_binary: Path, tmp_path: Path) -> None:
    policy, test = blocks("rego")
    (data,) = blocks("json")
    root = write_policies(
        tmp_path,
        {
            "acme/deploys/policy.rego": policy,
            "acme/deploys/policy_test.rego": test,
            "acme/deploys/data.json": data,
        },
    )
    opa = OpaTool(opa_binary)
    tree = tree_to_build(root, with_library=False)
    assert check(tree, opa).problems == []
    results = run_tests(tree, opa)
    assert len(results) == 3
    assert all(result.ok for result in results), results
    (entry,) = build(tree, opa).policies
    assert entry.title == "Only release agents deploy"
