"""docs/library.md has every policy of the library, as it is."""

from __future__ import annotations

import re
from pathlib import Path

from policies.authoring.sources import LIBRARY, read_tree
from policies.library_page import page
from policies.modes import ENFORCED_BY_DEFAULT

PAGE = Path(__file__).parents[2] / "docs" / "library.md"
IDS = re.compile(r"^(OWASP-LLM(0[1-9]|10):2025|OWASP-ASI(0[1-9]|10)|MITRE-ATLAS-AML\.T\d{4}(\.\d{3})?)$")


def test_the_page_is_what_the_policies_say() -> None:
    assert PAGE.read_text("utf-8") == page(), "stale: python -m policies.library_page docs/library.md"


def test_there_are_at_least_16_policies_each_with_all_that_is_told_of_it() -> None:
    policies = read_tree(LIBRARY).policies
    text = page()
    assert len(policies) >= 16
    for name, policy in policies.items():
        about = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        title, severity, tags = (
            re.search(pattern, about) for pattern in (r"\*\*(.+?)\.\*\* \w", r"Severity (\w+)\.", r"- (OWASP-.*)")
        )
        assert title and severity and tags, name
        named = tags[1].split(", ")
        assert all(IDS.match(tag) for tag in named), named
        assert {tag.split("-")[0] for tag in named} == {"OWASP", "MITRE"}
        assert any("OWASP-LLM" in tag for tag in named) and any("OWASP-ASI" in tag for tag in named)
        assert policy.tests and len(policy.examples) >= 2
        assert f"Unless set: {'enforce' if name in ENFORCED_BY_DEFAULT else 'shadow'}." in about


def test_the_tags_of_findings_are_those_of_their_policy() -> None:
    for name, policy in read_tree(LIBRARY).policies.items():
        for path in policy.modules.values():
            source = path.read_text("utf-8")
            head = next((line for line in source.splitlines() if line.startswith("#   tags:")), None)
            if head is None:
                continue
            known = set(re.findall(r"[\w.:-]+", head.partition("[")[2]))
            for written in re.findall(r'"((?:OWASP|MITRE)-[^"]+)"', source):
                assert written in known, (name, written)
