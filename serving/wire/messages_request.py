"""What vLLM will make of a request for ``/v1/messages``, read from the strict value of its body.

vLLM 0.32 checks it against ``AnthropicMessagesRequest`` (pydantic in lax mode) and turns it into a chat request
(``entrypoints/anthropic/serving.py``); this is that turn, in the words of ``serving.wire.request``. The three
outcomes of a field are those of ``serving.wire.chat_request``: read, :class:`UpstreamRefuses`, or :class:`Coerced`.

What the turn does and one might not expect:

* each ``tool_result`` becomes a message of the role ``tool``, before what else its message says; the texts in it are
  joined by newlines, other things in it than texts, images and tool references are dropped;
* images in a tool's result become a user's message behind it. Here they stay with the result (``media``), which is what
  they belong to;
* ``thinking`` becomes the assistant message's reasoning, ``redacted_thinking`` nothing;
* system texts that begin with ``x-anthropic-billing-header`` are dropped;
* ``tool_addition`` and ``tool_removal`` blocks in system messages change the tools that are offered;
* an assistant message at the end is closed, and does not prefill.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from serving.wire import coercion
from serving.wire.coercion import Reader, each
from serving.wire.dialect import Coerced, UpstreamRefuses
from serving.wire.field_reading import read_fields
from serving.wire.request import ChatRequest, SentCall, SentMessage, SentTool

_BILLING = "x-anthropic-billing-header"
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_LEAST_BUDGET = 1024

_Parts = tuple[tuple[SentMessage, ...], tuple[SentTool, ...]]


def read_messages_request(value: Any) -> ChatRequest | Coerced | UpstreamRefuses:
    """Reads ``value``, the strict value of a request body for ``/v1/messages``."""
    return read_fields(value, _READERS, _parts, _view)


def _parts(value: dict[str, Any]) -> _Parts:
    messages, changes = _conversation(value)
    return messages, _tools(value.get("tools"), changes)


def _view(value: dict[str, Any], parts: _Parts) -> ChatRequest:
    messages, tools = parts
    _together(value)
    choice = value.get("tool_choice")
    return ChatRequest(
        model=value["model"],
        messages=messages,
        tools=tools,
        tool_choice=_choice(choice)
        if choice is not None
        else "auto"
        if tools or value.get("tools") is not None
        else "none",
        stream=bool(value.get("stream")),
        limit=int(value["max_tokens"]),
        sampling=_sampling(value),
        fields=frozenset(value),
    )


def _choice(choice: dict[str, Any]) -> Any:
    """A tool choice in the words of chat completions."""
    if choice["type"] == "tool":
        return {"type": "function", "function": {"name": choice["name"]}}
    return "required" if choice["type"] == "any" else choice["type"]


def _sampling(value: dict[str, Any]) -> dict[str, Any]:
    """The sampling fields under their names in chat completions."""
    effort = (value.get("output_config") or {}).get("effort")
    sent = {name: value.get(name) for name in ("temperature", "top_p", "top_k")}
    sent |= {"stop": value.get("stop_sequences"), "reasoning_effort": effort}
    return {name: one for name, one in sent.items() if one is not None}


def _together(value: dict[str, Any]) -> None:
    for name in ("model", "messages", "max_tokens"):
        if name not in value:
            raise coercion.Refused(name, "missing")
    thinking, transfer = value.get("thinking"), value.get("kv_transfer_params")
    if thinking is None or thinking.get("type") != "enabled" or (transfer or {}).get("do_remote_decode"):
        return
    if thinking["budget_tokens"] >= value["max_tokens"]:
        raise coercion.Refused("thinking.budget_tokens", "not less than max_tokens")


# --- fields ------------------------------------------------------------------------------------------------


def _one_of(*words: str) -> Reader:
    def read(field: str, value: Any) -> None:
        if value.__class__ is not str or value not in words:
            raise coercion.Refused(field, f"not one of {', '.join(words)}")

    return read


def _members(**readers: Reader) -> Reader:
    """An object whose members, where they are there, are read so."""

    def read(field: str, value: Any) -> None:
        coercion.an_object(field, value)
        for name, reader in readers.items():
            if name in value:
                reader(f"{field}.{name}", value[name])

    return read


def _model(field: str, value: Any) -> None:
    coercion.string(field, value)
    if not value:
        raise coercion.Refused(field, "empty")


def _positive(field: str, value: Any) -> None:
    coercion.integer(field, value)
    if value <= 0:
        raise coercion.Refused(field, "not positive")


def _thinking(field: str, value: Any) -> None:
    _members(type=_one_of("enabled", "disabled", "adaptive"))(field, value)
    if "type" not in value:
        raise coercion.Refused(f"{field}.type", "missing")
    if value["type"] == "enabled":
        budget = value.get("budget_tokens")
        coercion.integer(f"{field}.budget_tokens", budget)
        if budget < _LEAST_BUDGET:
            raise coercion.Refused(f"{field}.budget_tokens", f"less than {_LEAST_BUDGET}")
    if value["type"] != "disabled":
        coercion.or_null(_one_of("summarized", "omitted", "updates"))(f"{field}.display", value.get("display"))


def _tool_choice(field: str, value: Any) -> None:
    _members(
        type=_one_of("auto", "any", "tool", "none"),
        name=coercion.or_null(coercion.string),
        disable_parallel_tool_use=coercion.or_null(coercion.boolean),
    )(field, value)
    if "type" not in value:
        raise coercion.Refused(f"{field}.type", "missing")
    if value["type"] == "tool" and not value.get("name"):
        raise coercion.Refused(f"{field}.name", "missing")


_FORMAT = _members(schema=coercion.or_null(coercion.an_object), type=_one_of("json_schema"))
_OUTPUT = _members(effort=coercion.or_null(_one_of(*_EFFORTS)), format=coercion.or_null(_FORMAT))

_FIELDS: tuple[tuple[Reader, str], ...] = (
    (_model, "model"),
    (_positive, "max_tokens"),
    (coercion.or_null(coercion.boolean), "stream watermarking return_mm_kwargs"),
    (coercion.or_null(coercion.integer), "top_k"),
    (coercion.or_null(coercion.number), "temperature top_p"),
    (coercion.or_null(coercion.string), "cache_salt"),
    (
        coercion.or_null(coercion.an_object),
        "metadata kv_transfer_params ec_transfer_params vllm_xargs chat_template_kwargs",
    ),
    (coercion.or_null(coercion.strings), "stop_sequences"),
    (coercion.or_null(_OUTPUT), "output_config"),
    (coercion.or_null(_thinking), "thinking"),
    (coercion.or_null(_tool_choice), "tool_choice"),
)
_READERS: dict[str, Reader] = {name: reader for reader, names in _FIELDS for name in names.split()}

# --- messages ----------------------------------------------------------------------------------------------

_BLOCKS = frozenset(
    {
        *("text", "image", "tool_use", "tool_result", "tool_reference", "thinking", "redacted_thinking"),
        *("tool_addition", "tool_removal"),
    }
)
_CHANGES = ("tool_addition", "tool_removal")
_TEXTS = ("text", "id", "tool_use_id", "name", "tool_name", "thinking", "signature", "data")
_IMAGE = ("image_url",)

Changes = list[tuple[str, dict[str, Any]]]
"""Kinds of ``_CHANGES`` with the tool that each names or defines, in order."""


def _conversation(value: dict[str, Any]) -> tuple[tuple[SentMessage, ...], Changes]:
    sent = value.get("messages")
    if sent.__class__ is not list:
        raise coercion.Refused("messages", "not a list" if "messages" in value else "missing")
    changes: Changes = []
    found = _system("system", value.get("system"), None)
    for group in each("messages", sent, lambda one: _message(one, changes)):
        found += group
    return tuple(found), changes


def _system(field: str, content: Any, changes: Changes | None) -> list[SentMessage]:
    """``changes`` None: blocks that change tools may not stand here."""
    if content is None or content == "":
        return []
    if content.__class__ is str:
        return [SentMessage("system", content)]
    blocks = _blocks(field, content)
    _take_changes(field, blocks, changes)
    texts = [one["text"] for one in blocks if one["type"] == "text" and one.get("text")]
    text = "".join([one for one in texts if not one.startswith(_BILLING)])
    return [SentMessage("system", text)] if text else []


def _take_changes(field: str, blocks: Iterable[dict[str, Any]], changes: Changes | None) -> None:
    for block in blocks:
        if block["type"] in _CHANGES:
            if changes is None:
                raise coercion.Refused(field, f"{block['type']} may not stand here")
            changes.append((block["type"], block["tool"]))


def _message(sent: Any, changes: Changes) -> list[SentMessage]:
    if sent.__class__ is not dict:
        raise coercion.Refused("", "not an object")
    role: Any = sent.get("role")
    _one_of("user", "assistant", "system")(".role", role)
    content: Any = sent.get("content")
    if role == "system":
        if content.__class__ is str:
            return [] if content.startswith(_BILLING) or not content else [SentMessage("system", content)]
        if content is None:
            raise coercion.Refused(".content", "null or missing")
        return _system(".content", content, changes)
    if content.__class__ is str:
        return [SentMessage(role, content)]
    blocks = _blocks(".content", content)
    _take_changes(".content", blocks, None)
    return _user(blocks) if role == "user" else [_assistant(blocks)]


def _blocks(field: str, content: Any) -> tuple[dict[str, Any], ...]:
    if content.__class__ is not list:
        raise coercion.Refused(field, "not a string or a list")
    return each(field, content, _block)


def _block(block: Any) -> dict[str, Any]:
    if block.__class__ is not dict:
        raise coercion.Refused("", "not an object")
    kind = block.get("type")
    if kind.__class__ is not str or kind not in _BLOCKS:
        raise coercion.Refused(".type", "not a type of content that is known")
    for name in _TEXTS:
        text = block.get(name)
        if text is not None and text.__class__ is not str:
            raise coercion.Refused(f".{name}", "not a string")
    for name in ("source", "input"):
        if block.get(name) is not None:
            coercion.an_object(f".{name}", block[name])
    if block.get("is_error") is not None:
        coercion.boolean(".is_error", block["is_error"])
    content = block.get("content")
    if content is not None and content.__class__ is not str:
        if content.__class__ is not list:
            raise coercion.Refused(".content", "not a string or a list")
        for place, item in enumerate(content):
            coercion.an_object(f".content[{place}]", item)
    if block.get("tool") is not None or kind in _CHANGES:
        _change(kind, block.get("tool"))
    found: dict[str, Any] = block
    return found


def _user(blocks: tuple[dict[str, Any], ...]) -> list[SentMessage]:
    found: list[SentMessage] = []
    texts: list[str] = []
    media: tuple[str, ...] = ()
    for block in blocks:
        kind = block["type"]
        if kind == "text" and block.get("text"):
            texts.append(block["text"])
        elif kind == "image" and block.get("source"):
            media = (*media, *_IMAGE)
        elif kind == "tool_result":
            found.append(_result(block))
        elif kind in ("tool_use", "thinking"):
            raise coercion.Coerced(".content", f"of a user may not hold {kind} blocks")
    if texts or media:
        found.append(SentMessage("user", "\n".join(texts), media=media))
    return found


def _result(block: dict[str, Any]) -> SentMessage:
    content = block.get("content")
    call_id = block.get("tool_use_id") or ""
    if content.__class__ is not list:
        return SentMessage("tool", content or "", tool_call_id=call_id)
    texts: list[str] = []
    media: tuple[str, ...] = ()
    references: list[str] = []
    for item in content:
        kind = item.get("type")
        if kind == "text":
            text = item.get("text", "")
            if text.__class__ is not str:
                raise coercion.Refused(".content", "a text that is not a string")
            texts.append(text)
        elif kind == "image":
            media = (*media, *_IMAGE)
        elif kind == "tool_reference":
            name = item.get("tool_name") or item.get("name")
            if name and name.__class__ is not str:
                raise coercion.Coerced(".content", "must name tools by strings")
            references += [name] if name else []
    text = "\n".join([*texts, *references])
    return SentMessage("tool", text, tool_call_id=call_id, media=media)


def _assistant(blocks: tuple[dict[str, Any], ...]) -> SentMessage:
    texts: list[str] = []
    media: tuple[str, ...] = ()
    thoughts: list[str] = []
    calls: list[SentCall] = []
    for block in blocks:
        kind = block["type"]
        if kind == "text" and block.get("text"):
            texts.append(block["text"])
        elif kind == "image" and block.get("source"):
            media = (*media, *_IMAGE)
        elif kind == "thinking" and block.get("thinking") is not None:
            thoughts.append(block["thinking"])
        elif kind == "tool_use":
            arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
            calls.append(SentCall(block.get("id") or None, block.get("name") or "", arguments))
        elif kind == "tool_result":
            texts.append(f"Tool result: {block.get('content') or ''}")
    return SentMessage(
        role="assistant",
        text="\n".join(texts),
        reasoning="".join(thoughts) if thoughts else None,
        calls=tuple(calls),
        media=media,
    )


# --- tools -------------------------------------------------------------------------------------------------


def _tools(sent: Any, changes: Changes) -> tuple[SentTool, ...]:
    if sent is None:
        declared: tuple[SentTool, ...] = ()
    elif sent.__class__ is not list:
        raise coercion.Refused("tools", "not a list")
    else:
        declared = each("tools", sent, _tool)
    if not changes:
        return declared
    tools, removed = {tool.name: tool for tool in declared}, set()
    for kind, change in changes:
        if change["type"] == "tool_definition":
            tool = _tool(change["definition"])
            tools[tool.name] = tool
            name = tool.name
        else:
            name = change["name"]
            if name not in tools:
                raise coercion.Refused("messages", f"{kind} names a tool that is not declared")
        if kind == "tool_removal":
            removed.add(name)
        else:
            removed.discard(name)
    return tuple([tool for name, tool in tools.items() if name not in removed])


def _change(kind: str, tool: Any) -> None:
    if tool is None:
        raise coercion.Refused(".tool", "missing")
    coercion.an_object(".tool", tool)
    _one_of("tool_reference", "tool_definition")(".tool.type", tool.get("type"))
    if tool["type"] == "tool_reference":
        coercion.string(".tool.name", tool.get("name"))
        return
    if kind == "tool_removal":
        raise coercion.Refused(".tool.type", "not tool_reference")
    try:
        _tool(tool.get("definition"))
    except coercion.Problem as problem:
        problem.field = f".tool.definition{problem.field}"
        raise


def _tool(sent: Any) -> SentTool:
    if sent.__class__ is not dict:
        raise coercion.Refused("", "not an object")
    name: Any = sent.get("name")
    schema: Any = sent.get("input_schema")
    description = sent.get("description")
    coercion.string(".name", name)
    if description is not None:
        coercion.string(".description", description)
    coercion.an_object(".input_schema", schema)
    for flag in ("strict", "defer_loading"):
        if sent.get(flag) is not None:
            coercion.boolean(f".{flag}", sent[flag])
    return SentTool(name, description, schema if "type" in schema else {**schema, "type": "object"})
