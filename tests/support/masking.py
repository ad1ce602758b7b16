"""A policy that masks a key wherever the model says it, and what is to be seen of that in an answer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from tests.support.apis import documents, heard
from tests.support.text_stage import TextStage, staged_by_hold

KEY = "AKIA" + "Z7FAKE2DEMO3KEY5"
OTHER = "AKIA" + "Q6OTHER7DEMO2KEY"
MASK = "[key]"
POLICY = """\
# METADATA
# title: No keys in what the model says, thinks and hands to tools
# custom:
#   severity: high
#   hold: {hold}
#   patterns: [secrets/aws_access_key_id]
package interlock.policies.team.{name}

finding := {{
	"id": "key",
	"severity": "high",
	"action": "redact",
	"message": "It named a key.",
	"tags": [],
	"redactions": [{{"path": hit.path, "start": hit.start, "end": hit.end, "replacement": "[key]"}} |
		some hit in input.signals
		hit.id == "aws_access_key_id"
	],
}}

output contains finding if count(finding.redactions) > 0

reasoning contains finding if count(finding.redactions) > 0

tool_call contains finding if count(finding.redactions) > 0
"""


def masking(opa_binary: Path, folder: Path, holds: Iterable[str]) -> AbstractAsyncContextManager[dict[str, TextStage]]:
    """A stage for each hold. The starter policy that would refuse a key in a call is off."""
    return staged_by_hold(opa_binary, folder, POLICY, holds, {"interlock.secrets": "off"})


def masked(text: str) -> str:
    return text.replace(KEY, MASK).replace(OTHER, MASK)


def leaks(body: bytes) -> dict[str, str]:
    """The kinds of field with three characters of a key in a row, whatever joins them."""
    found: dict[str, str] = {}
    for path, said in heard(body).items():
        if any(key[at : at + 3] in said for key in (KEY, OTHER) for at in range(len(key) - 2)):
            found[path] = said
    return found


def finishes(body: bytes) -> list[Any]:
    """All that an answer says of why it ended."""
    found: list[Any] = []
    for document in documents(body):
        found += [c["finish_reason"] for c in document.get("choices", []) if c.get("finish_reason")]
        found += [(document.get("delta") or {}).get("stop_reason")] if document.get("type") == "message_delta" else []
        found += [document["response"]["status"]] if document.get("type") == "response.completed" else []
        found += [document[name] for name in ("stop_reason", "status") if name in document]
    return found


def tokens_fit(body: bytes) -> None:
    """Lists that a client reads side by side have one length; the places of tokens are those of the text."""
    texts: dict[int, str] = {}
    for document in documents(body):
        for choice in document.get("choices", []):
            before = texts.get(choice["index"], "")
            after = texts[choice["index"]] = before + choice.get("text", "")
            logprobs = choice.get("logprobs")
            if not logprobs or "tokens" not in logprobs:
                continue
            lists = [logprobs[name] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")]
            assert {len(one) for one in lists} == {len(choice["token_ids"])}
            for token, place in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
                if token != "<|im_end|>":
                    assert after[place : place + len(token)] == token
        for choice in document.get("choices", []):
            content = (choice.get("logprobs") or {}).get("content")
            if content is not None:
                assert len(content) == len(choice["token_ids"])


def unmasked(body: bytes) -> Any:
    """An answer without what masks concern."""
    value = json.loads(body)

    def walk(one: Any) -> Any:
        if isinstance(one, dict):
            hidden = {"logprobs", "token_ids"}
            return {key: walk(inner) for key, inner in one.items() if key not in hidden}
        if isinstance(one, list):
            return [walk(inner) for inner in one]
        return masked(one) if isinstance(one, str) else one

    return walk(value)
