"""What vLLM will make of a request to ``/v1/responses``, read from the strict value of its body.

``ResponsesRequest`` of vLLM 0.32 is read in pydantic's lax mode; how values that it coerces are treated is said in
``serving.wire.chat_request``. The input is a text, or a list of items; :func:`read_items` makes messages of it. Items
of one assistant turn (reasoning, text, calls) become one message, whatever the number of messages that vLLM makes of
them: nothing is left out, and a turn that a client sends back is the message that it was given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from serving.request_fields import ANSWER, MEDIA_PARTS, PROMPT, RULES, TEXT_PARTS, FieldRule, late_text
from serving.wire import coercion
from serving.wire.chat_request import SAMPLING
from serving.wire.coercion import Reader, each
from serving.wire.dialect import Coerced, UpstreamRefuses
from serving.wire.field_reading import read_fields
from serving.wire.request import ChatRequest, SentCall, SentMessage, SentTool
from serving.wire.responses_items import full_name

LOGPROBS = "message.output_text.logprobs"
_ROLES = frozenset({"user", "assistant", "system", "developer"})
_FOREIGN_KEYS = frozenset(
    {"tool_calls", "tool_call_id", "function_call", "reasoning", "reasoning_content", "name", "author", "tools", "task"}
)
"""What chat templates read of a message, and a message of this API has not."""

_Parts = tuple[tuple[SentMessage, ...], tuple[SentTool, ...]]


def read_responses_request(value: Any) -> ChatRequest | Coerced | UpstreamRefuses:
    """Reads ``value``, the strict value of a request body."""
    return read_fields(value, _READERS, _parts, _view)


def _parts(value: dict[str, Any]) -> _Parts:
    return _input(value), _tools(value.get("tools", []))


def _view(value: dict[str, Any], parts: _Parts) -> ChatRequest:
    messages, tools = parts
    if instructions := value.get("instructions"):
        messages = (SentMessage("system", instructions), *messages)
    limit = value.get("max_output_tokens")
    sampling = {name: value[name] for name in SAMPLING if value.get(name) is not None}
    effort = (value.get("reasoning") or {}).get("effort")
    if effort is not None:
        sampling["reasoning_effort"] = effort
    return ChatRequest(
        model=value.get("model"),
        messages=messages,
        tools=tools,
        tool_choice=value.get("tool_choice", "auto") if tools else "none",
        stream=bool(value.get("stream")),
        limit=None if limit is None else int(limit),
        logprobs=LOGPROBS in (value.get("include") or ()),
        top_logprobs=int(value.get("top_logprobs") or 0),
        sampling=sampling,
        fields=frozenset(value),
        late_text=late_text(value),
        previous=value.get("previous_response_id"),
        answer_id=value.get("request_id"),
        stored=value.get("store", True) is not False,
        background=bool(value.get("background")),
    )


def _never(field: str, value: Any) -> None:
    raise coercion.Refused(field, "not supported by the model server")


def _tool_choice(field: str, value: Any) -> None:
    if value.__class__ is str:
        return
    coercion.an_object(field, value)


def _list(field: str, value: Any) -> None:
    if value.__class__ is not list:
        raise coercion.Refused(field, "not a list")


_FIELDS: tuple[tuple[Reader, str], ...] = (
    (
        coercion.or_null(coercion.boolean),
        "background parallel_tool_calls store stream watermarking return_mm_kwargs",
    ),
    (
        coercion.not_null(coercion.boolean),
        "include_reasoning skip_special_tokens include_stop_str_in_output enable_response_messages ignore_eos",
    ),
    (coercion.or_null(coercion.integer), "max_output_tokens max_tool_calls top_k seed top_logprobs"),
    (coercion.not_null(coercion.integer), "priority"),
    (
        coercion.or_null(coercion.number),
        "temperature top_p min_p presence_penalty frequency_penalty repetition_penalty",
    ),
    (
        coercion.or_null(coercion.string),
        "instructions model previous_response_id user prompt_cache_key session_id cache_salt truncation",
    ),
    (coercion.not_null(coercion.string), "request_id service_tier mm_payload"),
    (
        coercion.or_null(coercion.an_object),
        "metadata logit_bias reasoning text media_io_kwargs mm_processor_kwargs structured_outputs vllm_xargs "
        "kv_transfer_params ec_transfer_params chat_template_kwargs",
    ),
    (coercion.or_null(coercion.integers), "stop_token_ids"),
    (coercion.or_null(coercion.strings), "include"),
    (coercion.or_null(coercion.string_or_strings), "stop"),
    (coercion.or_null(_list), "previous_input_messages"),
    (coercion.not_null(_tool_choice), "tool_choice"),
    (coercion.or_null(_never), "prompt"),
)
_READERS: dict[str, Reader] = {name: reader for reader, names in _FIELDS for name in names.split()}

# --- input -------------------------------------------------------------------------------------------------


def _input(value: dict[str, Any]) -> tuple[SentMessage, ...]:
    if "input" not in value:
        raise coercion.Refused("input", "missing")
    sent = value["input"]
    if sent.__class__ is str:
        return (SentMessage("user", sent),)
    if sent == {}:
        raise coercion.Coerced("input", "must be a text or a list of items")  # vLLM lists its keys
    if sent.__class__ is not list:
        raise coercion.Refused("input", "not a text or a list of items")
    return joined(each("input", sent, _item))


def joined(pieces: tuple[SentMessage, ...]) -> tuple[SentMessage, ...]:
    """The messages that items make: what an assistant said in a row is one message."""
    messages: list[SentMessage] = []
    for piece in pieces:
        last = messages[-1] if messages else None
        if last is None or piece.role != "assistant" or last.role != "assistant":
            messages.append(piece)
            continue
        reasoning = [one for one in (last.reasoning, piece.reasoning) if one is not None]
        messages[-1] = SentMessage(
            "assistant",
            last.text + piece.text,
            reasoning="".join(reasoning) if reasoning else None,
            calls=last.calls + piece.calls,
            media=last.media + piece.media,
        )
    return tuple(messages)


def _item(sent: Any) -> SentMessage:
    if sent.__class__ is not dict:
        raise coercion.Refused("", "not an object")
    kind = sent.get("type", "message")
    if kind.__class__ is not str:
        raise coercion.Coerced(".type", "must be a string")
    if kind == "message":
        return _message(sent)
    if "role" in sent:
        raise coercion.Coerced(".role", "is only for messages")
    match kind:
        case "function_call":
            name = full_name(_string(sent, "name"), _optional(sent, "namespace"))
            return _called(SentCall(_string(sent, "call_id"), name, _string(sent, "arguments")))
        case "custom_tool_call":
            written = json.dumps({"input": _string(sent, "input")}, ensure_ascii=False)
            return _called(SentCall(_string(sent, "call_id"), _string(sent, "name"), written))
        case "function_call_output" | "custom_tool_call_output":
            text, media = _content(sent.get("output"), ".output")
            return SentMessage("tool", text, tool_call_id=_optional(sent, "call_id"), media=media)
        case "reasoning":
            return SentMessage("assistant", "", reasoning=_reasoning(sent))
    raise coercion.Refused(".type", "a kind of item that the model server does not take")


def _called(call: SentCall) -> SentMessage:
    return SentMessage("assistant", "", calls=(call,))


def _message(sent: Mapping[str, Any]) -> SentMessage:
    role = _string(sent, "role")
    if role not in _ROLES:
        raise coercion.Refused(".role", "not one of user, assistant, system, developer")
    if foreign := _FOREIGN_KEYS.intersection(sent):
        raise coercion.Coerced(f".{min(foreign)}", "is no field of a message")
    content = sent.get("content")
    text, media = _content(content, ".content")
    if role == "assistant" and content.__class__ is list and content and (said := content[0].get("text")) is not None:
        return SentMessage(role, said)  # the model server reads no further
    return SentMessage(role, text, media=media)


def _content(content: Any, field: str) -> tuple[str, tuple[str, ...]]:
    """The texts of a message's or a result's parts, joined as vLLM joins them, and the types of its other parts."""
    if content.__class__ is str:
        return content, ()
    if content.__class__ is not list:
        raise coercion.Refused(field, "not a text or a list of parts")
    parts = each(field, content, _part)
    texts = [text for text, _ in parts if text is not None]
    return "\n".join(texts), tuple([name for _, media in parts for name in media])


def _part(part: Any) -> tuple[str | None, tuple[str, ...]]:
    if part.__class__ is not dict:
        raise coercion.Refused("", "not an object")
    kind = part.get("type")
    if kind.__class__ is not str:
        raise coercion.Coerced(".type", "must be a string")
    media = tuple([name for name in part if name in MEDIA_PARTS])
    key = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}.get(kind)
    if key is None:
        return None, media if kind in media else (kind, *media)
    text = part.get(key)
    if text.__class__ is not str:
        raise coercion.Refused(f".{key}", "not a string")
    return text, media


def _reasoning(sent: Mapping[str, Any]) -> str:
    if sent.get("encrypted_content"):
        raise coercion.Refused(".encrypted_content", "not supported by the model server")
    for field in ("content", "summary"):
        parts = sent.get(field)
        if parts is None:
            continue
        if parts.__class__ is not list:
            raise coercion.Refused(f".{field}", "not a list")
        texts = each(f".{field}", parts, _thought)
        if texts:
            return texts[0]  # the model server reads no further
    return ""


def _thought(part: Any) -> str:
    if part.__class__ is not dict:
        raise coercion.Refused("", "not an object")
    return _string(part, "text")


def _string(sent: Mapping[str, Any], key: str) -> str:
    value = sent.get(key)
    if value.__class__ is not str:
        raise coercion.Refused(f".{key}", "not a string" if key in sent else "missing")
    return str(value)


def _optional(sent: Mapping[str, Any], key: str) -> str | None:
    return None if sent.get(key) is None else _string(sent, key)


# --- tools -------------------------------------------------------------------------------------------------


def _tools(sent: Any) -> tuple[SentTool, ...]:
    """The tools that the client executes. Others have a rule in :data:`FIELDS`."""
    if sent.__class__ is not list:
        raise coercion.Refused("tools", "not a list")
    return tuple([tool for group in each("tools", sent, _tool) for tool in group])


def _tool(sent: Any, namespace: str | None = None) -> tuple[SentTool, ...]:
    if sent.__class__ is not dict:
        raise coercion.Refused("", "not an object")
    kind = _string(sent, "type")
    if kind == "namespace" and namespace is None:
        own = _string(sent, "name")
        inner = sent.get("tools")
        if inner.__class__ is not list:
            raise coercion.Refused(".tools", "not a list")
        return tuple([tool for group in each(".tools", inner, lambda one: _tool(one, own)) for tool in group])
    if kind not in ("function", "custom"):
        return ()
    description, parameters = sent.get("description"), sent.get("parameters")
    if description is not None and description.__class__ is not str:
        raise coercion.Refused(".description", "not a string")
    if parameters is not None and parameters.__class__ is not dict:
        raise coercion.Refused(".parameters", "not an object")
    return (SentTool(full_name(_string(sent, "name"), namespace), description, parameters),)


# --- fields that hide something ----------------------------------------------------------------------------


def _items(fields: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    sent = fields.get("input")
    return [item for item in sent if isinstance(item, Mapping)] if isinstance(sent, list) else []


def _media(fields: Mapping[str, Any]) -> bool:
    return any(
        not isinstance(part, Mapping) or part.get("type") not in TEXT_PARTS or not MEDIA_PARTS.isdisjoint(part)
        for item in _items(fields)
        for content in (item.get("content"), item.get("output"))
        if isinstance(content, list) and item.get("type", "message") != "reasoning"
        for part in content
    )


def _unfinished(fields: Mapping[str, Any]) -> bool:
    items = _items(fields)
    return bool(items) and items[-1].get("status") in ("in_progress", "incomplete")


def _offered(fields: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tools = fields.get("tools")
    offered = [tool for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, list) else []
    inner = [one for tool in offered if isinstance(tool.get("tools"), list) for one in tool["tools"]]
    return offered + [one for one in inner if isinstance(one, Mapping)]


def _servers(fields: Mapping[str, Any]) -> bool:
    return any(tool.get("type") not in ("function", "namespace", "custom") for tool in _offered(fields))


def _custom(fields: Mapping[str, Any]) -> bool:
    return any(tool.get("type") == "custom" for tool in _offered(fields))


_SHARED = frozenset({"include_reasoning", "chat_template_kwargs", "kv_transfer_params", "ec_transfer_params"})
FIELDS: tuple[FieldRule, ...] = (
    *[rule for rule in RULES if rule.param in _SHARED],
    FieldRule(
        "previous_input_messages",
        PROMPT,
        "brings in messages in another form than the input's",
        lambda fields: bool(fields.get("previous_input_messages")),
    ),
    FieldRule(
        "enable_response_messages",
        ANSWER,
        "with `previous_response_id` shows earlier answers as the model made them, and not as they were given",
        lambda fields: bool(fields.get("enable_response_messages") and fields.get("previous_response_id")),
    ),
    FieldRule("input[].content[]", PROMPT, "holds media that no policy can read", _media),
    FieldRule("input[].status", ANSWER, "lets the answer begin inside an item of the request", _unfinished),
    FieldRule(
        "tools[].type",
        PROMPT | ANSWER,
        "names a tool that the model server runs itself, where nobody sees what it is asked and what it answers",
        _servers,
    ),
    FieldRule(
        "tools[].custom",
        frozenset({"tool_call"}),
        "offers a tool whose calls are free text, which is not judged",
        _custom,
    ),
)
"""The request fields of this API that hide a surface, in the order in which a client is told."""
