"""What vLLM will make of a chat-completions request, read from the strict value of its body.

How to think about it: vLLM's request model (``ChatCompletionRequest``, pydantic in lax mode, vLLM 0.32)
coerces: ``"stream": "yes"`` streams, ``"n": "2"`` makes two choices. A judge that reads such a field in another
way judges another request. So every field has one of three outcomes:

* its value has the plain JSON type (or null where vLLM takes null): it is read;
* vLLM surely refuses the request because of it: :class:`UpstreamRefuses`. Forward the bytes, so that the
  client gets vLLM's own words; a 2xx answer to such a request is unjudged;
* vLLM would coerce it, or what it does hangs on the model or the version: :class:`Coerced`. Refuse it with 400.

If fields disagree, a coerced one wins: what is refused here can open no way round. Whole numbers written as
``2.0`` are read as vLLM reads them. Names that vLLM does not know pass unread; they are in ``fields``. What
fields hide from the judge beside all this is the matter of ``serving.request_fields``, which may count on the
plain types once this reader has passed a request.
"""

from __future__ import annotations

from typing import Any

from serving.request_fields import late_text
from serving.wire import coercion
from serving.wire.coercion import Reader, each
from serving.wire.dialect import Coerced, UpstreamRefuses
from serving.wire.field_reading import read_fields
from serving.wire.request import ChatRequest, SentCall, SentMessage, SentTool

_Parts = tuple[tuple[SentMessage, ...], tuple[SentTool, ...]]


def read_chat_request(value: Any) -> ChatRequest | Coerced | UpstreamRefuses:
    """Reads ``value``, the strict value of a request body for ``/v1/chat/completions``."""
    return read_fields(value, _READERS, _parts, _view)


def _parts(value: dict[str, Any]) -> _Parts:
    return _messages(value), _tools(value.get("tools"))


def _view(value: dict[str, Any], parts: _Parts) -> ChatRequest:
    messages, tools = parts
    limit = value.get("max_completion_tokens")
    if limit is None:
        limit = value.get("max_tokens")
    options = value.get("stream_options") or {}
    n = value.get("n")
    return ChatRequest(
        model=value.get("model"),
        messages=messages,
        tools=tools,
        tool_choice=value.get("tool_choice", "auto" if tools else "none"),
        stream=bool(value.get("stream")),
        include_usage=bool(options.get("include_usage")),
        n=1 if n is None else int(n),
        limit=None if limit is None else int(limit),
        logprobs=bool(value.get("logprobs")),
        top_logprobs=int(value.get("top_logprobs") or 0),
        token_ids=bool(value.get("return_token_ids")),
        sampling={name: value[name] for name in SAMPLING if value.get(name) is not None},
        fields=frozenset(value),
        late_text=late_text(value),
    )


def stream_options(field: str, value: Any) -> None:
    """An object whose known members are booleans."""
    coercion.an_object(field, value)
    for name in ("include_usage", "continuous_usage_stats"):
        if value.get(name) is not None:
            coercion.boolean(f"{field}.{name}", value[name])


def _tool_choice(field: str, value: Any) -> None:
    if value.__class__ is str:
        if value not in ("none", "auto", "required"):
            raise coercion.Refused(field, "not one of none, auto, required")
        return
    coercion.an_object(field, value)
    function = value.get("function")
    if function.__class__ is not dict or function.get("name").__class__ is not str:
        raise coercion.Refused(f"{field}.function", "no function with a name")
    if value.get("type", "function") != "function":
        raise coercion.Refused(f"{field}.type", "not function")


_FIELDS: tuple[tuple[Reader, str], ...] = (
    (
        coercion.or_null(coercion.boolean),
        "stream logprobs return_token_ids return_tokens_as_token_ids return_prompt_text return_token_offsets "
        "return_mm_kwargs parallel_tool_calls watermarking",
    ),
    (
        coercion.not_null(coercion.boolean),
        "include_reasoning echo add_generation_prompt continue_final_message add_special_tokens ignore_eos "
        "use_beam_search include_stop_str_in_output skip_special_tokens spaces_between_special_tokens",
    ),
    (
        coercion.or_null(coercion.integer),
        "n max_tokens max_completion_tokens top_logprobs prompt_logprobs seed top_k truncate_prompt_tokens "
        "stream_interval thinking_token_budget",
    ),
    (coercion.not_null(coercion.integer), "min_tokens priority routed_experts_prompt_start"),
    (
        coercion.or_null(coercion.number),
        "temperature top_p min_p frequency_penalty presence_penalty repetition_penalty",
    ),
    (coercion.not_null(coercion.number), "length_penalty"),
    (
        coercion.or_null(coercion.string),
        "model user chat_template session_id cache_salt reasoning_effort truncation_side",
    ),
    (coercion.not_null(coercion.string), "request_id"),
    (
        coercion.or_null(coercion.an_object),
        "chat_template_kwargs media_io_kwargs mm_processor_kwargs kv_transfer_params ec_transfer_params vllm_xargs",
    ),
    (coercion.or_null(coercion.integers), "stop_token_ids logprob_token_ids allowed_token_ids"),
    (coercion.not_null(coercion.strings), "bad_words"),
    (coercion.or_null(coercion.string_or_strings), "stop"),
    (coercion.or_null(stream_options), "stream_options"),
    (coercion.or_null(_tool_choice), "tool_choice"),
)
_READERS: dict[str, Reader] = {name: reader for reader, names in _FIELDS for name in names.split()}

SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "length_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "min_tokens",
    "ignore_eos",
    "use_beam_search",
    "reasoning_effort",
)
"""The fields that ``ChatRequest.sampling`` holds as sent, if sent and not null."""

# --- messages ----------------------------------------------------------------------------------------------

_MEDIA = frozenset(
    {
        "image_url",
        "input_image",
        "image_pil",
        "image_embeds",
        "audio_url",
        "input_audio",
        "audio_embeds",
        "video_url",
        "video_embeds",
        "prompt_embeds",
        "file",
    }
)
_TEXT_OF = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
    "tool_reference": "name",
}
"""Which key of a content part holds what the model reads, by the part's type."""


def text_key(kind: Any) -> str | None:
    """Which key of a content part of this type holds text; None if none does."""
    return _TEXT_OF.get(kind) if kind.__class__ is str else None


def _messages(value: dict[str, Any]) -> tuple[SentMessage, ...]:
    sent = value.get("messages")
    if sent.__class__ is not list:
        raise coercion.Refused("messages", "not a list" if "messages" in value else "missing")
    return each("messages", sent, _message)


def _message(sent: Any) -> SentMessage:
    if sent.__class__ is not dict:
        raise coercion.Refused("", "not an object")
    if "author" in sent:
        raise coercion.Coerced(".author", "is not supported; name the author in role")
    role = sent.get("role")
    if role.__class__ is not str:
        raise coercion.Refused(".role", "not a string" if "role" in sent else "missing")
    text = sent.get("content")
    media: tuple[str, ...] = ()
    if text is None:
        text = ""
    elif text.__class__ is not str:
        text, media = _content(text)
    reasoning = sent.get("reasoning")
    if reasoning is not None:
        _text(".reasoning", reasoning)
    older = sent.get("reasoning_content")
    if older is not None:
        _text(".reasoning_content", older)
    call_id = sent.get("tool_call_id")
    if call_id is not None:
        _text(".tool_call_id", call_id)
    name = sent.get("name")
    if name is not None:
        _text(".name", name)
    calls = sent.get("tool_calls")
    return SentMessage(
        role=role,
        text=text,
        reasoning=older if reasoning is None else reasoning,
        calls=() if calls is None else _calls(calls),
        tool_call_id=call_id,
        name=name,
        media=media,
    )


def _text(field: str, value: Any) -> None:
    """Which of vLLM's message types matches, and so whether it drops a wrong value, hangs on the other keys."""
    if value.__class__ is not str:
        raise coercion.Coerced(field, "must be a string or null")


def _content(content: Any) -> tuple[str, tuple[str, ...]]:
    """The texts of a list of content parts, joined as vLLM joins them, and the media in it.

    Which keys of a part vLLM heeds when it has more than one hangs on the model server's settings: text and
    media are both named then.
    """
    if content.__class__ is dict:
        raise coercion.Coerced(".content", "must be a string, a list of parts or null")
    if content.__class__ is not list:
        raise coercion.Refused(".content", "not a string or a list")
    parts = each(".content", content, _part)
    return (
        "\n".join([text for text, _ in parts if text is not None]),
        tuple([name for _, media in parts for name in media]),
    )


def _part(part: Any) -> tuple[str | None, tuple[str, ...]]:
    """The text of one content part, and the names of the media in it."""
    if part.__class__ is str:
        return part, ()
    if part.__class__ is not dict:
        raise coercion.Coerced("", "must be an object or a string")
    kind = part.get("type")
    media = tuple([name for name in part if name in _MEDIA])
    if kind is None:
        if not media:
            raise coercion.Coerced(".type", "must name the type of the part")
        return None, media
    if kind.__class__ is not str:
        raise coercion.Coerced(".type", "must be a string")
    key = _TEXT_OF.get(kind)
    if key is None:
        return None, media if kind in media else (kind, *media)
    text = part.get(key)
    if text is not None and text.__class__ is not str:
        raise coercion.Coerced(f".{key}", "must be a string")
    return text, media


def _calls(sent: Any) -> tuple[SentCall, ...]:
    if sent.__class__ is not list:
        raise coercion.Coerced(".tool_calls", "must be a list or null")
    return each(".tool_calls", sent, _call)


def _call(sent: Any) -> SentCall:
    if sent.__class__ is not dict:
        raise coercion.Coerced("", "must be an object")
    function = sent.get("function")
    if function.__class__ is not dict:
        raise coercion.Coerced(".function", "must be an object")
    name = function.get("name")
    if name.__class__ is not str:
        raise coercion.Coerced(".function.name", "must be a string")
    arguments = function.get("arguments")
    if arguments is None:
        arguments = ""
    elif arguments.__class__ is not str:
        raise coercion.Coerced(".function.arguments", "must be a string that holds JSON")
    call_id = sent.get("id")
    if call_id is not None:
        _text(".id", call_id)
    return SentCall(id=call_id, name=name, arguments=arguments)


# --- tools -------------------------------------------------------------------------------------------------


def _tools(sent: Any) -> tuple[SentTool, ...]:
    if sent is None:
        return ()
    if sent.__class__ is not list:
        raise coercion.Refused("tools", "not a list")
    if not sent:
        raise coercion.Refused("tools", "empty")
    return each("tools", sent, _tool)


def _tool(sent: Any) -> SentTool:
    if sent.__class__ is not dict:
        raise coercion.Refused("", "not an object")
    if sent.get("type", "function") != "function":
        raise coercion.Refused(".type", "not function")
    function = sent.get("function")
    if function.__class__ is not dict:
        raise coercion.Refused(".function", "not an object")
    name = function.get("name")
    if name.__class__ is not str:
        raise coercion.Refused(".function.name", "not a string")
    description = function.get("description")
    if description is not None and description.__class__ is not str:
        raise coercion.Refused(".function.description", "not a string")
    parameters = function.get("parameters")
    if parameters is not None and parameters.__class__ is not dict:
        raise coercion.Refused(".function.parameters", "not an object")
    return SentTool(name=name, description=description, parameters=parameters)
