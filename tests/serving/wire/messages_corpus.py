"""Requests for ``/v1/messages``, for our reading and vLLM's own to be compared on: name → body."""

from __future__ import annotations

from typing import Any

BASE: dict[str, Any] = {"model": "tiny", "max_tokens": 300, "messages": [{"role": "user", "content": "Hello!"}]}
TOOL = {"name": "run", "description": "Run it", "input_schema": {"type": "object"}}
DATA = {"type": "base64", "media_type": "image/png", "data": "aGk="}
IMAGE = {"type": "image", "source": DATA}
ASKED = {"role": "user", "content": "Go"}
NOTE = "x-anthropic-billing-header: cc_version=1"


def said(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**BASE, "messages": list(messages), **fields}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def system(*blocks: Any) -> dict[str, Any]:
    return {"role": "system", "content": list(blocks)}


def text(words: Any) -> dict[str, Any]:
    return {"type": "text", "text": words}


def result(content: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t1", "content": content, **fields}


def use(value: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "t1", "name": "run", "input": value, **fields}


def changed(kind: str, tool: Any, *, tools: Any = (TOOL,)) -> dict[str, Any]:
    return said(ASKED, system({"type": kind, "tool": tool}), tools=list(tools))


MESSAGES: dict[str, dict[str, Any]] = {
    "a word": BASE,
    "blocks": said(user(text("a"), text(""), text(None), text("b"))),
    "an image": said(user(text("a"), IMAGE)),
    "an image by its URL": said(user({"type": "image", "source": {"type": "url", "url": "http://x/y.png"}})),
    "an image without a source": said(user({"type": "image"})),
    "no blocks": said(user()),
    "system text": {**BASE, "system": "Be brief."},
    "system blocks": {**BASE, "system": [text("Be "), text("brief."), text("")]},
    "system of no words": {**BASE, "system": ""},
    "system null": {**BASE, "system": None},
    "billing in system text": {**BASE, "system": NOTE},
    "billing in system blocks": {**BASE, "system": [text(NOTE), text("Be brief.")]},
    "system in the middle": said(ASKED, {"role": "system", "content": "Now."}, ASKED),
    "system blocks in the middle": said(ASKED, system(text("No"), text("w")), ASKED),
    "billing in the middle": said(ASKED, {"role": "system", "content": NOTE}, system(text(NOTE)), ASKED),
    "a call and its result": said(ASKED, assistant(use({"c": "ls"})), user(result("a.txt"))),
    "a call without input": said(ASKED, assistant(use({}), use(None, id="t2")), user(result(None))),
    "a call without a name": said(ASKED, assistant({"type": "tool_use"}), user({"type": "tool_result"})),
    "thinking, text, calls": said(
        ASKED,
        assistant(
            {"type": "thinking", "thinking": "Hm.", "signature": "x"},
            {"type": "redacted_thinking", "data": "xyz"},
            {"type": "thinking", "thinking": " Yes."},
            text("I will"),
            text("look."),
            use({"c": "ls", "n": 1.5, "u": "ü\n"}),
            use({"c": "pwd"}, id="t2"),
        ),
        user(result("a.txt"), result("/", tool_use_id="t2"), text("Go on.")),
    ),
    "words before results": said(ASKED, assistant(use({})), user(text("So:"), result("a"), text("And?"))),
    "a result in blocks": said(ASKED, assistant(use({})), user(result([text("a"), text("b")], is_error=True))),
    "a result with an image": said(ASKED, assistant(use({})), user(result([text("a"), IMAGE]))),
    "a result of an image alone": said(ASKED, assistant(use({})), user(result([IMAGE]))),
    "a result with a reference": said(
        ASKED, assistant(use({})), user(result([{"type": "tool_reference", "tool_name": "run"}]))
    ),
    "a result with what nobody knows": said(
        ASKED, assistant(use({})), user(result([{"type": "document", "source": {}}, text("a"), {}]))
    ),
    "a result with text of a number": said(ASKED, assistant(use({})), user(result([text(5)]))),
    "a result that is a number": said(ASKED, assistant(use({})), user(result(5))),
    "a result that is an object": said(ASKED, assistant(use({})), user(result({"a": 1}))),
    "a result of strings": said(ASKED, assistant(use({})), user(result(["a"]))),
    "a result in an answer": said(ASKED, assistant(result("a"), text("b")), ASKED),
    "a result of blocks in an answer": said(ASKED, assistant(result([text("a")])), ASKED),
    "an answer at the end": said(ASKED, {"role": "assistant", "content": "Sure: {"}),
    "an answer of nothing": said(ASKED, assistant(), ASKED),
    "an answer of redacted thought": said(ASKED, assistant({"type": "redacted_thinking", "data": "x"}), ASKED),
    "a call of a user": said(user(use({"c": "ls"}), text("a"))),
    "a user's thought": said(user({"type": "thinking", "thinking": "Hm."}, text("a"))),
    "tools": {**BASE, "tools": [TOOL, {"name": "x", "input_schema": {}}]},
    "no tools": {**BASE, "tools": []},
    "tools null": {**BASE, "tools": None},
    "a server's tool": {**BASE, "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    "a server's tool with a schema": {**BASE, "tools": [{**TOOL, "type": "bash_20250124"}]},
    "a tool without a name": {**BASE, "tools": [{"input_schema": {}}]},
    "a tool with a number": {**BASE, "tools": [{**TOOL, "description": 5}]},
    "a tool with a list": {**BASE, "tools": [{**TOOL, "input_schema": []}]},
    "a tool with flags": {**BASE, "tools": [{**TOOL, "strict": True, "defer_loading": False}]},
    "a tool with a flag of words": {**BASE, "tools": [{**TOOL, "strict": "yes"}]},
    "a tool added by its name": changed("tool_addition", {"type": "tool_reference", "name": "run"}),
    "a tool added that is not there": changed("tool_addition", {"type": "tool_reference", "name": "x"}),
    "a tool added by its definition": changed(
        "tool_addition", {"type": "tool_definition", "definition": {**TOOL, "name": "more"}}
    ),
    "a tool added where there are none": changed(
        "tool_addition", {"type": "tool_definition", "definition": TOOL}, tools=()
    ),
    "a tool removed": changed("tool_removal", {"type": "tool_reference", "name": "run"}),
    "a tool removed by its definition": changed("tool_removal", {"type": "tool_definition", "definition": TOOL}),
    "a change without a tool": changed("tool_addition", None),
    "a change of another kind": changed("tool_addition", {"type": "x", "name": "run"}),
    "a change that a user makes": said(
        user({"type": "tool_removal", "tool": {"type": "tool_reference", "name": "run"}}), tools=[TOOL]
    ),
    "a change in system": {
        **BASE,
        "system": [{"type": "tool_removal", "tool": {"type": "tool_reference", "name": "run"}}],
        "tools": [TOOL],
    },
}

_TYPES = (None, True, 1, 0, 2.0, 2.5, "1", "yes", "x", "", [], ["x"], {}, {"a": 1})
FIELD_NAMES = (
    *("model", "max_tokens", "messages", "metadata", "output_config", "thinking", "stop_sequences", "stream", "system"),
    *("temperature", "tool_choice", "tools", "top_k", "top_p", "cache_salt", "watermarking", "kv_transfer_params"),
    *("ec_transfer_params", "vllm_xargs", "chat_template_kwargs"),
)
_CHOICES: dict[str, list[Any]] = {
    "tool_choice": [
        *({"type": kind} for kind in ("auto", "any", "none", "tool", "x")),
        *({"type": "tool", "name": name} for name in ("run", "", None, 5)),
        {"type": "auto", "disable_parallel_tool_use": True},
        {"type": "auto", "disable_parallel_tool_use": "yes"},
        {"name": "run"},
    ],
    "thinking": [
        {"type": "disabled"},
        {"type": "adaptive", "display": "omitted"},
        {"type": "adaptive", "display": "x"},
        {"type": "enabled"},
        {"type": "enabled", "budget_tokens": 100},
        {"type": "enabled", "budget_tokens": 1024},
        {"type": "enabled", "budget_tokens": "1024"},
        {"type": "x"},
    ],
    "output_config": [
        {"effort": "low"},
        {"effort": "x"},
        {"effort": None, "format": None},
        {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        {"format": {"type": "x"}},
        {"format": {"schema": []}},
    ],
    "stop_sequences": [["a", "b"], [1], ["a"] * 5],
    "max_tokens": [-1, 10**6],
    "messages": [["x"], [{"role": "tool", "content": "x"}], [{"role": "user"}], [{"content": "x"}]],
    "kv_transfer_params": [{"do_remote_decode": True}],
    "vllm_xargs": [{"a": [1]}],
}
FIELDS = {
    f"{name}: {value!r}": {**BASE, name: value} for name in FIELD_NAMES for value in (*_TYPES, *_CHOICES.get(name, ()))
}
BLOCKS = {
    f"{kind}.{name}: {value!r}": said(ASKED, {"role": role, "content": [{"type": kind, name: value}]}, ASKED)
    for role, kind, name in (
        *(("user", "text", "text"), ("user", "image", "source"), ("user", "tool_result", "is_error")),
        *(("user", "tool_result", "tool_use_id"), ("assistant", "tool_use", "input"), ("assistant", "tool_use", "id")),
        *(("assistant", "tool_use", "name"), ("assistant", "thinking", "thinking"), ("assistant", "x", "text")),
        ("assistant", "server_tool_use", "name"),
    )
    for value in _TYPES
}
MISSING = {f"no {name}": {k: v for k, v in BASE.items() if k != name} for name in BASE}
CORPUS: dict[str, dict[str, Any]] = MESSAGES | FIELDS | BLOCKS | MISSING
