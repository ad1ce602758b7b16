"""What vLLM will make of a request for ``/v1/completions`` (``CompletionRequest`` of vLLM 0.32).

Each prompt is read as one message of a user. Prompts of token ids and of embeddings cannot be read: they are in
:data:`FIELDS`, so that they are refused while an enforcing policy reads requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.request_fields import ANSWER, PROMPT, RULES, FieldRule, late_text
from serving.wire import coercion
from serving.wire.chat_request import SAMPLING, stream_options
from serving.wire.coercion import Reader
from serving.wire.dialect import Coerced, UpstreamRefuses
from serving.wire.field_reading import read_fields
from serving.wire.request import ChatRequest, SentMessage

MAX_TOKENS = 16
"""vLLM's own limit where the request has none."""


def _ids(fields: Mapping[str, Any]) -> bool:
    prompt = fields.get("prompt")
    return isinstance(prompt, list) and any(not isinstance(item, str) for item in prompt)


def _embeds(fields: Mapping[str, Any]) -> bool:
    return fields.get("prompt_embeds") not in (None, [])


_SHARED = {"return_tokens_as_token_ids", "stop", "truncation_side", "kv_transfer_params", "ec_transfer_params"}

FIELDS: tuple[FieldRule, ...] = (
    FieldRule("prompt", PROMPT, "is made of token ids, which no policy can read", _ids),
    FieldRule("prompt_embeds", PROMPT | ANSWER, "is a prompt that no policy can read", _embeds),
    *(rule for rule in RULES if rule.param in _SHARED),
)


def read_completions_request(value: Any) -> ChatRequest | Coerced | UpstreamRefuses:
    """Reads ``value``, the strict value of a request body for ``/v1/completions``."""
    return read_fields(value, _READERS, lambda _: None, _view)


def _prompts(value: dict[str, Any]) -> tuple[SentMessage, ...]:
    prompt = value.get("prompt")
    if prompt in (None, "") and value.get("prompt_embeds") in (None, []):
        raise coercion.Refused("prompt", "neither prompt nor prompt_embeds")
    if isinstance(prompt, str):
        return (SentMessage("user", prompt),)
    return tuple([SentMessage("user", one) for one in prompt or () if isinstance(one, str)])


def _view(value: dict[str, Any], _: None) -> ChatRequest:
    prompts = _prompts(value)
    prompt = value.get("prompt")
    limit, n = value.get("max_tokens"), value.get("n", 1)
    options = value.get("stream_options") or {}
    logprobs = value.get("logprobs")
    return ChatRequest(
        model=value.get("model"),
        messages=prompts,
        tool_choice="none",
        stream=bool(value.get("stream")),
        include_usage=bool(options.get("include_usage")),
        n=int(n) * max(1, len(prompt) if isinstance(prompt, list) and not _flat(prompt) else 1),
        limit=MAX_TOKENS if limit is None else int(limit),
        logprobs=logprobs is not None,
        top_logprobs=int(logprobs or 0),
        token_ids=bool(value.get("return_token_ids")),
        sampling={name: value[name] for name in SAMPLING if value.get(name) is not None},
        fields=frozenset(value),
        late_text=late_text(value),
    )


def _flat(prompt: list[Any]) -> bool:
    """One prompt of token ids."""
    return bool(prompt) and not isinstance(prompt[0], str | list)


def _prompt(field: str, value: Any) -> None:
    if value.__class__ is str:
        return
    if value.__class__ is not list:
        raise coercion.Refused(field, "not a string or a list")
    kinds = {item.__class__ for item in value}
    if kinds <= {str} or kinds <= {int}:
        return
    if kinds == {list}:
        for item in value:
            if not all(part.__class__ is int for part in item):
                raise coercion.Coerced(field, "must be a list of strings, or of token ids")
        return
    raise coercion.Coerced(field, "must be a list of strings, or of token ids")


_FIELDS: tuple[tuple[Reader, str], ...] = (
    (
        coercion.or_null(coercion.boolean),
        "echo stream return_tokens_as_token_ids return_token_ids return_token_offsets return_mm_kwargs watermarking",
    ),
    (
        coercion.not_null(coercion.boolean),
        "use_beam_search include_stop_str_in_output ignore_eos skip_special_tokens spaces_between_special_tokens "
        "add_special_tokens",
    ),
    (
        coercion.or_null(coercion.integer),
        "logprobs max_tokens seed top_k truncate_prompt_tokens prompt_logprobs stream_interval thinking_token_budget",
    ),
    (coercion.not_null(coercion.integer), "n min_tokens priority routed_experts_prompt_start"),
    (
        coercion.or_null(coercion.number),
        "temperature top_p min_p frequency_penalty presence_penalty repetition_penalty",
    ),
    (coercion.not_null(coercion.number), "length_penalty"),
    (coercion.or_null(coercion.string), "model user suffix session_id cache_salt truncation_side"),
    (coercion.not_null(coercion.string), "request_id"),
    (coercion.or_null(coercion.an_object), "kv_transfer_params ec_transfer_params vllm_xargs"),
    (coercion.or_null(coercion.integers), "stop_token_ids logprob_token_ids allowed_token_ids"),
    (coercion.not_null(coercion.strings), "bad_words"),
    (coercion.or_null(coercion.string_or_strings), "stop"),
    (coercion.or_null(stream_options), "stream_options"),
    (coercion.or_null(_prompt), "prompt"),
)
_READERS: dict[str, Reader] = {name: reader for reader, names in _FIELDS for name in names.split()}
