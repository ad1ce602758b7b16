"""Request fields that hide a surface from the judge, or split what it reads from what the model reads.

How to think about it. A judge reads the messages and the answer. vLLM takes fields with which a client can make
the model read something else (a template of its own, token ids in place of the messages), have an answer begin
before its first byte (a prefilled half call), or have part of it left out (reasoning). Each such field is a
rule: when it applies, which surfaces it hides, and why. The answer is the same for all of them today: the
request is refused while an enforcing policy reads a hidden surface, and passes untouched while none does.
Policies that only record refuse nothing; for those :func:`hidden` says what coverage must report.

Fields that merely ask for more (logprobs, token ids, prompt echoes) are the gate's business, and so are those
that steer a call into plain text (``tool_choice: none``, ``logit_bias``, ``structured_outputs``): they hide
nothing. Conditions are wide where vLLM coerces (``"false"``, ``0``): what is not plainly harmless applies.

Source: ``ChatCompletionRequest`` and ``renderers/`` of vLLM 0.32.0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

Surface = Literal["request", "reasoning", "text", "tool_call", "tool_result", "logprobs"]

PROMPT: frozenset[Surface] = frozenset({"request", "tool_result"})
ANSWER: frozenset[Surface] = frozenset({"reasoning", "text", "tool_call"})


class FieldProblem(msgspec.Struct, frozen=True):
    """A field that applies: its ``param`` (a path in OpenAI's notation), what it hides, and a sentence for the
    client. ``status`` and ``code`` are those of the refusal."""

    param: str
    hides: frozenset[Surface]
    message: str
    status: int = 403
    code: str = "hidden_surface"


class FieldRule(msgspec.Struct, frozen=True):
    """``applies`` gets the whole request body (a JSON object) and is pure. ``param`` begins with the name of the
    top-level field without which the rule never applies; a rule on ``messages[]`` never applies to messages that have
    nothing but :data:`PLAIN_KEYS` and a string as their content."""

    param: str
    hides: frozenset[Surface]
    why: str
    applies: Callable[[Mapping[str, Any]], bool]


def hidden(fields: Mapping[str, Any], rules: Sequence[FieldRule] | None = None) -> Iterable[FieldProblem]:
    """Every field of the request that hides something, whoever reads it."""
    rules = RULES if rules is None else rules
    tops, of_messages = _tops_of(rules)
    plain = not of_messages or "messages" not in fields or _plain_messages(fields)
    if plain and fields.keys().isdisjoint(tops):  # as nearly always
        return ()
    return _found(fields, rules, plain)


def _found(fields: Mapping[str, Any], rules: Sequence[FieldRule], plain: bool) -> Iterator[FieldProblem]:
    for rule in rules:
        if _TOP[rule.param] not in fields or (plain and rule.param.startswith(_MESSAGES)):
            continue
        if rule.applies(fields):
            message = f"`{rule.param}` {rule.why}, and a policy in force must see that. Leave the field out."
            yield FieldProblem(rule.param, rule.hides, message)


_MESSAGES = "messages[]"
_AboutFields = tuple[frozenset[str], bool]
_known_tops: dict[int, tuple[Sequence[FieldRule], _AboutFields]] = {}


def _tops_of(rules: Sequence[FieldRule]) -> _AboutFields:
    """The fields that rules are about, but for rules on the messages; and whether there are such. Remembered, because
    an API's rules never change."""
    known = _known_tops.get(id(rules))
    if known is None or known[0] is not rules:
        others = frozenset(_TOP[rule.param] for rule in rules if not rule.param.startswith(_MESSAGES))
        known = _known_tops[id(rules)] = rules, (others, any(rule.param.startswith(_MESSAGES) for rule in rules))
    return known[1]


MEDIA_PARTS = frozenset(
    {
        *("image_url", "image_pil", "image_embeds", "input_image", "video_url", "video_embeds"),
        *("audio_url", "input_audio", "audio_embeds", "prompt_embeds"),
    }
)
TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "tool_reference"})
REASONING_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})


PART_KEYS = frozenset({"type", "text", "refusal", "thinking", "closed", "name"})
CALL_KEYS = frozenset({"id", "type", "function", "index"})
FUNCTION_KEYS = frozenset({"name", "arguments"})
"""What vLLM itself knows in a text part and in a call of the history. It hands any other key on to the template,
where ``tojson`` prints it, name and value."""

CACHE_MARKS = ({"type": "ephemeral"}, {"type": "ephemeral", "ttl": "5m"}, {"type": "ephemeral", "ttl": "1h"})
"""``cache_control`` as clients of other servers send it."""

HARMLESS_STEERING = {"add_generation_prompt": True, "continue_final_message": False}
STEERING = frozenset(
    {
        *("conversation", "messages", "tools", "chat_template", "tokenize", "tokenizer_kwargs"),
        *("truncation", "truncation_side", "max_length", "padding", "padding_side", "return_tensors", "return_dict"),
        *("return_assistant_tokens_mask", "add_generation_prompt", "continue_final_message"),
    }
)
"""Template arguments that are the tokenizer's own: they say which messages and tools are rendered, and how much."""

PLAIN_KEYS = frozenset({"role", "content", "name", "tool_call_id"})


class _Tops(dict[str, str]):
    """The top-level field of a path in OpenAI's notation."""

    def __missing__(self, param: str) -> str:
        top = self[param] = re.split(r"[.\[]", param, maxsplit=1)[0]
        return top


_TOP = _Tops()


def _plain_messages(fields: Mapping[str, Any]) -> bool:
    """Nothing in the messages but texts, who says them, and which call they answer."""
    messages = fields["messages"]
    if messages.__class__ is not list:
        return False
    for message in messages:
        if message.__class__ is not dict or not message.keys() <= PLAIN_KEYS:
            return False
        if message.get("content").__class__ is not str:
            return False
    return True


def _given(name: str) -> Callable[[Mapping[str, Any]], bool]:
    """Neither absent nor null, false, or empty."""
    return lambda fields: fields.get(name) not in (None, False, "", [], {})


def _not_true(name: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda fields: fields.get(name, True) is not True


def _tokens_as_ids(fields: Mapping[str, Any]) -> bool:
    return _given("return_tokens_as_token_ids")(fields) and _logprobs(fields)


def _logprobs(fields: Mapping[str, Any]) -> bool:
    logprobs = fields.get("logprobs")  # 0 is a number of alternatives in completions
    return logprobs is not None and logprobs is not False


def late_text(fields: Mapping[str, Any]) -> bool:
    """A streamed text comes later than its tokens, by as many characters as the longest stop string has, less one."""
    sent = fields.get("stop")
    stops = sent if isinstance(sent, list) else [sent]
    late = any(isinstance(stop, str) and len(stop) > 1 for stop in stops)
    return late and bool(fields.get("stream")) and fields.get("include_stop_str_in_output") is not True


def _ids_before_text(fields: Mapping[str, Any]) -> bool:
    """With logprobs it shows which tokens the text does not say yet; those wait for it."""
    return _given("return_token_ids")(fields) and not _logprobs(fields) and late_text(fields)


def _tokens_before_calls(fields: Mapping[str, Any]) -> bool:
    """Of two calls, the events of the first one show tokens of the second."""
    shown = _given("return_token_ids")(fields) or _logprobs(fields)
    return shown and _given("tools")(fields) and late_text(fields)


def _template_text(fields: Mapping[str, Any]) -> bool:
    """Switches (booleans, numbers) choose between the template's own texts; anything else is text."""
    arguments = fields.get("chat_template_kwargs")
    if arguments is None:
        return False
    if not isinstance(arguments, Mapping):
        return True
    return any(
        not isinstance(value, bool | int | float | None)
        and not (name == "reasoning_effort" and isinstance(value, str) and value in REASONING_EFFORTS)
        for name, value in arguments.items()
    )


def _template_steering(fields: Mapping[str, Any]) -> bool:
    arguments = fields.get("chat_template_kwargs")
    return isinstance(arguments, Mapping) and any(
        value is not None and value is not HARMLESS_STEERING.get(name)
        for name, value in arguments.items()
        if name in STEERING
    )


def _foreign_prompt(fields: Mapping[str, Any]) -> bool:
    """``prompt_token_ids`` replace the messages with any vLLM; ``do_remote_prefill`` needs a KV connector."""
    transfer = fields.get("kv_transfer_params")
    if transfer is None:
        return False
    if not isinstance(transfer, Mapping):
        return True
    return transfer.get("prompt_token_ids") is not None or _given("do_remote_prefill")(transfer)


def _cut_on_the_right(fields: Mapping[str, Any]) -> bool:
    side = fields.get("truncation_side")
    return fields.get("truncate_prompt_tokens") is not None and side not in (None, "left")


def _messages(fields: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    messages = fields.get("messages")
    if isinstance(messages, Iterable) and not isinstance(messages, str | Mapping):
        yield from (message for message in messages if isinstance(message, Mapping))


def _media(fields: Mapping[str, Any]) -> bool:
    return any(_is_media(part) for message in _messages(fields) for part in _parts(message))


def _parts(message: Mapping[str, Any]) -> list[Any]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def _is_media(part: Any) -> bool:
    """As vLLM finds it: by a part's keys, whatever its type says; a type that we do not know counts too."""
    if not isinstance(part, Mapping):
        return False
    kind = part.get("type", "text")
    return not MEDIA_PARTS.isdisjoint(part) or not isinstance(kind, str) or kind not in TEXT_PARTS


def _part_keys(fields: Mapping[str, Any]) -> bool:
    return any(
        key not in PART_KEYS and key not in MEDIA_PARTS and not (key == "cache_control" and value in CACHE_MARKS)
        for message in _messages(fields)
        for part in _parts(message)
        if isinstance(part, Mapping)
        for key, value in part.items()
    )


def _call_keys(fields: Mapping[str, Any]) -> bool:
    return any(
        not (call.keys() <= CALL_KEYS)
        or isinstance(call.get("index"), str | list | dict)
        or (isinstance(function := call.get("function"), Mapping) and not function.keys() <= FUNCTION_KEYS)
        for message in _messages(fields)
        if isinstance(calls := message.get("tool_calls"), list)
        for call in calls
        if isinstance(call, Mapping)
    )


def _message_tools(fields: Mapping[str, Any]) -> bool:
    return any(_given("tools")(message) for message in _messages(fields))


def _message_task(fields: Mapping[str, Any]) -> bool:
    return any(_given("task")(message) for message in _messages(fields))


RULES: tuple[FieldRule, ...] = (
    FieldRule(
        "include_reasoning",
        frozenset({"reasoning", "logprobs"}),
        "leaves the model's reasoning out of the answer",
        _not_true("include_reasoning"),
    ),
    FieldRule(
        "return_tokens_as_token_ids",
        frozenset({"logprobs", "tool_call", "text"}),
        "with `logprobs` names tokens by number, so that a refused text could not be found among them",
        _tokens_as_ids,
    ),
    FieldRule(
        "stop",
        ANSWER,
        "of several characters, in a stream with `return_token_ids`, lets the tokens come long before their text",
        _ids_before_text,
    ),
    FieldRule(
        "stop",
        frozenset({"tool_call"}),
        "of several characters, in a stream that shows tokens, lets the tokens of one call come with another",
        _tokens_before_calls,
    ),
    FieldRule("chat_template", PROMPT | ANSWER, "replaces the model's own prompt", _given("chat_template")),
    FieldRule("chat_template_kwargs", PROMPT, "puts text into the prompt that is in no message", _template_text),
    FieldRule(
        "chat_template_kwargs",
        PROMPT | ANSWER,
        "says which messages and tools come into the prompt, and how much of them",
        _template_steering,
    ),
    FieldRule("documents", PROMPT, "puts text into the prompt that is in no message", _given("documents")),
    FieldRule(
        "continue_final_message",
        ANSWER,
        "lets the answer begin inside a message of the request",
        _given("continue_final_message"),
    ),
    FieldRule(
        "add_generation_prompt",
        ANSWER,
        "set to false lets the answer begin outside an assistant message",
        _not_true("add_generation_prompt"),
    ),
    FieldRule(
        "truncation_side",
        PROMPT | ANSWER,
        "ends the prompt in the middle of a message, where the answer then begins",
        _cut_on_the_right,
    ),
    FieldRule(
        "kv_transfer_params",
        PROMPT | ANSWER,
        "replaces the messages by a prompt that was made elsewhere",
        _foreign_prompt,
    ),
    FieldRule(
        "ec_transfer_params",
        PROMPT,
        "brings in media that were encoded elsewhere",
        _given("ec_transfer_params"),
    ),
    FieldRule("messages[].content[]", PROMPT, "holds media that no policy can read", _media),
    FieldRule("messages[].content[]", PROMPT, "has keys that a template may print", _part_keys),
    FieldRule("messages[].tool_calls[]", PROMPT, "has keys that a template may print", _call_keys),
    FieldRule("messages[].tools", PROMPT, "offers tools inside a message", _message_tools),
    FieldRule("messages[].task", PROMPT, "puts text into the prompt that is in no message", _message_task),
)
"""Those of chat completions, in the order in which a client is told. Other dialects have their own."""
