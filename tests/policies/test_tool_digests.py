"""What a tool is: other words or another schema make it another one, another way to write or list it does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policies.facts.tool_digests import digest_of, digests
from serving.wire.request import SentTool

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"q": {"type": "string", "enum": ["a", "b"]}, "n": {"type": "integer"}},
    "required": ["q"],
}
SEARCH, OTHER = SentTool("search", "Search.", SCHEMA), SentTool("search", "Search elsewhere.", SCHEMA)


def test_the_order_of_keys_does_not_matter() -> None:
    turned = json.loads(json.dumps(SCHEMA), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert list(turned) != list(SCHEMA)
    assert digest_of(SentTool("search", "Search.", turned)) == digest_of(SEARCH)


@pytest.mark.parametrize(
    "other",
    [
        OTHER,
        SentTool("search", "Search.\u200b", SCHEMA),
        SentTool("search", None, SCHEMA),
        SentTool("search", "Search.", {**SCHEMA, "required": []}),
        SentTool("search", "Search.", json.loads(json.dumps(SCHEMA).replace('["a", "b"]', '["a", "b", "c"]'))),
    ],
)
def test_other_words_and_a_value_deep_in_the_schema_do(other: SentTool) -> None:
    assert digests([other]) != digests([SEARCH])


def test_neither_does_the_order_of_tools_of_one_name_nor_one_that_is_listed_twice() -> None:
    assert digests([SEARCH, OTHER]) == digests([OTHER, SEARCH]) == digests([OTHER, SEARCH, OTHER])
    assert digests([SEARCH, SEARCH]) == digests([SEARCH]) != digests([SEARCH, OTHER])
