"""The chat requests, and others, that are sent to a real vLLM directly and through Interlock.

Each is a plain piece of data: a body or raw bytes, under a name that says what is special about it. All are
deterministic (temperature 0, or seeded) and ask for nothing that a policy forbids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.tiny.harness import Harness, message_of
from serving.tiny.scripts import CAPITAL, COMPARE, COUNT, HAIKU, HELLO, REPAIR, SUM, TOOLS, WEATHER
from tests.support.masked import MASKED, MODELS_MASKED

CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Ask:
    """One request. ``masks``: what is masked in its answer. ``hides``: it asks for a form that hides a surface
    from enforcing policies, so it is sent where policies only record. ``error``: vLLM refuses it."""

    name: str
    raw: bytes
    masks: Mapping[str, str] = field(default_factory=lambda: MASKED)
    hides: bool = False
    error: bool = False


def http(
    method: str, path: str, body: bytes | None = None, *lines: str, content_type: str | None = "application/json"
) -> bytes:
    """The bytes of a request; ``lines`` are more header lines."""
    head = [f"{method} {path} HTTP/1.1", "Host: vllm.test:8000", "Accept: */*", "Connection: close", *lines]
    if body is not None:
        head += [f"Content-Type: {content_type}"] if content_type else []
        head += [f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + (body or b"")


def chat(body: dict[str, Any], *lines: str) -> bytes:
    return http("POST", CHAT, json.dumps(body).encode(), *lines)


def _after(script: Any, answers: int) -> dict[str, Any]:
    """The request after so many scripted answers, with their tool results."""
    harness = Harness(script)
    for number in range(answers):
        harness.take(message_of(script.turns[number], ids=f"chatcmpl-tool-{number:016x}"))
    return harness.request()


def _first(script: Any, **fields: Any) -> dict[str, Any]:
    return Harness(script).request(**fields)


ALL_TOOLS = [tool.definition() for tool in TOOLS.values()]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
SCHEMA = {
    "type": "object",
    "properties": {"capital": {"type": "string", "maxLength": 12}},
    "required": ["capital"],
    "additionalProperties": False,
}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "capital", "schema": SCHEMA, "strict": True}}
NO_THOUGHTS = {"chat_template_kwargs": {"enable_thinking": False}}
SAMPLED = {"temperature": 0.7, "seed": 11}

_BOTH: dict[str, dict[str, Any]] = {
    "a greeting": _first(HELLO),
    "several lines": _first(HAIKU),
    "a long text": _first(COUNT),
    "text that is JSON": _first(CAPITAL),
    "emoji and degree signs": _after(WEATHER, 1),
    "null in every optional field": _first(HELLO) | dict.fromkeys(("tools", "stop", "n", "logprobs", "seed", "model")),
    "no model": {k: v for k, v in _first(HELLO).items() if k != "model"},
    "tools auto": _first(WEATHER),
    "tools offered and not needed": _first(HELLO, tools=ALL_TOOLS),
    "tools auto, several offered": _first(WEATHER, tools=ALL_TOOLS),
    "tool choice auto": _first(WEATHER, tool_choice="auto"),
    "tool choice required": _first(WEATHER, tool_choice="required"),
    "tool choice named": _first(WEATHER, tool_choice=NAMED),
    "tool choice none": _first(WEATHER, tool_choice="none"),
    "required, without thinking": _first(WEATHER, tool_choice="required") | NO_THOUGHTS,
    "parallel calls": _first(COMPARE),
    "parallel calls switched off": _first(COMPARE, parallel_tool_calls=False),
    "text before the call": _first(SUM),
    "second turn with a tool result": _after(SUM, 1),
    "second turn with two tool results": _after(COMPARE, 1),
    "fourth turn of a coding agent": _after(REPAIR, 3),
    "last turn of a coding agent": _after(REPAIR, 4),
    "two sampled choices": _first(HAIKU, n=2) | SAMPLED,
    "two sampled choices with calls": _first(COMPARE, n=2, temperature=0.3, seed=7),
    "three sampled choices with token ids": _first(HELLO, n=3, return_token_ids=True) | SAMPLED,
    "two sampled choices with calls and logprobs": _first(WEATHER, n=2, logprobs=True, temperature=0.3, seed=7),
    "logprobs": _first(HELLO, logprobs=True),
    "top logprobs": _first(HELLO, logprobs=True, top_logprobs=3),
    "all top logprobs": _first(HELLO, logprobs=True, top_logprobs=20, max_tokens=6),
    "logprobs of half characters": _after(WEATHER, 1) | {"logprobs": True, "top_logprobs": 2},
    "logprobs of a call": _first(WEATHER, logprobs=True),
    "top logprobs of parallel calls": _first(COMPARE, logprobs=True, top_logprobs=2),
    "logprobs without reasoning": _first(HELLO, logprobs=True) | NO_THOUGHTS,
    "token ids": _first(HELLO, return_token_ids=True),
    "token ids of a call": _first(WEATHER, return_token_ids=True),
    "token ids and logprobs of calls": _first(COMPARE, return_token_ids=True, logprobs=True, top_logprobs=1),
    "thinking switched off": _first(HELLO) | NO_THOUGHTS,
    "thinking switched off, with a call": _first(WEATHER) | NO_THOUGHTS,
    "reasoning left out": _first(HELLO, include_reasoning=False),
    "reasoning left out, with a call": _first(WEATHER, include_reasoning=False),
    "a JSON schema": _first(CAPITAL, response_format=JSON_SCHEMA, max_tokens=60),
    "a JSON object": _first(CAPITAL, response_format={"type": "json_object"}, max_tokens=60),
    "structured output by schema": _first(CAPITAL, structured_outputs={"json": SCHEMA}, max_tokens=60),
    "structured output by choice": _first(CAPITAL, structured_outputs={"choice": ["yes", "no"]}) | NO_THOUGHTS,
    "structured output by expression": _first(CAPITAL, structured_outputs={"regex": "[ab]{3}"}) | NO_THOUGHTS,
    "a stop string": _first(COUNT, stop="12"),
    "several stop strings": _first(COUNT, stop=["31", "9 10"]),
    "a stop string that is shown": _first(COUNT, stop=["9 10"], include_stop_str_in_output=True),
    "a stop string in a call": _first(WEATHER, stop=["Par"]),
    "a limit": _first(COUNT, max_tokens=9),
    "the newer limit": _first(COUNT, max_completion_tokens=9),
    "a limit of one": _first(COUNT, max_tokens=1),
    "a limit within the reasoning": _first(WEATHER, max_tokens=4),
    "a limit within a call": _first(WEATHER, max_tokens=34),
    "a limit within a call, with logprobs": _first(WEATHER, max_tokens=34, logprobs=True),
    "a least length": _first(HELLO, min_tokens=5, max_tokens=40),
    "no end": _first(HELLO, ignore_eos=True, max_tokens=40),
    "special tokens shown": _first(WEATHER, skip_special_tokens=False),
    "sampled with a seed": _first(HAIKU) | SAMPLED,
    "sampled with every knob": _first(
        HAIKU, temperature=0.6, seed=3, top_p=0.9, top_k=40, min_p=0.01, presence_penalty=0.1, frequency_penalty=0.1
    ),
    "a repetition penalty": _first(HELLO, repetition_penalty=1.05, max_tokens=30),
    "a token made impossible": _first(HELLO, logit_bias={"40": -100}),
    "a bad word": _first(HELLO, bad_words=["Hello"], max_tokens=30),
    "a priority": _first(HELLO, priority=0),
    "a cache salt": _first(HELLO, cache_salt="pepper"),
    "extra arguments for vLLM": _first(HELLO, vllm_xargs={"shade": "blue"}),
    "transfer parameters without a connector": _first(HELLO, kv_transfer_params={}),
    "a session id": _first(HELLO, session_id="s-1"),
    "unknown fields": _first(HELLO, metadata={"a": [1, {"b": None}]}, user="u-1", xyzzy="plugh"),
    "old function fields": _first(HELLO, functions=[{"name": "f"}], function_call="auto"),
    "a request id in the body": _first(HELLO, request_id="ours-1"),
    "a developer message": _after(HELLO, 0)
    | {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": HELLO.prompt}]},
    "a system message": Harness(HELLO, system="You are helpful.").request(),
    "an unknown role": _first(HELLO) | {"messages": [{"role": "wizard", "content": HELLO.prompt}]},
    "content parts": _first(HELLO)
    | {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Say"}, {"type": "text", "text": HELLO.prompt}]}
        ]
    },
    "reasoning under its older name": _first(SUM)
    | {
        "messages": [
            {"role": "user", "content": SUM.prompt},
            {"role": "assistant", "content": "Let me add them.", "reasoning_content": "I use the add tool."},
            {"role": "user", "content": "Go on."},
        ]
    },
    "named speakers": _first(HELLO) | {"messages": [{"role": "user", "name": "kim", "content": HELLO.prompt}]},
    "reasoning effort": _first(HELLO, reasoning_effort="low"),
    "echo": _first(HELLO, echo=True),
    "the prompt's own text": _first(HELLO, return_prompt_text=True),
}

_STREAMED: dict[str, dict[str, Any]] = {
    "usage": _first(HELLO, stream_options={"include_usage": True}),
    "usage of a call": _first(WEATHER, stream_options={"include_usage": True}),
    "usage in every event": _first(
        HELLO, stream_options={"include_usage": True, "continuous_usage_stats": True}, tools=ALL_TOOLS
    ),
    "usage in every event of calls": _first(
        COMPARE, stream_options={"include_usage": True, "continuous_usage_stats": True}
    ),
    "no usage": _first(HELLO, stream_options={"include_usage": False}),
    "two choices with usage": _first(HELLO, n=2, stream_options={"include_usage": True}) | SAMPLED,
    "five tokens in an event": _first(COUNT, stream_interval=5),
    "five tokens of a call in an event": _first(COMPARE, stream_interval=5),
    "five tokens with logprobs": _first(WEATHER, stream_interval=5, logprobs=True, return_token_ids=True),
    "more tokens in an event than there are": _first(WEATHER, stream_interval=500),
}

_WHOLE: dict[str, dict[str, Any]] = {
    "prompt logprobs": _first(HELLO, prompt_logprobs=2),
    "prompt logprobs with token ids": _first(WEATHER, prompt_logprobs=0, return_token_ids=True),
}

_HIDING: dict[str, dict[str, Any]] = {
    "tokens named by number": _first(HELLO, logprobs=True, return_tokens_as_token_ids=True),
    "a continued message": _first(COUNT, continue_final_message=True, add_generation_prompt=False)
    | {"messages": [{"role": "user", "content": COUNT.prompt}, {"role": "assistant", "content": "1 2 3"}]},
    "documents": _first(HELLO, documents=[{"title": "t", "text": "x"}]),
}

_HIDING_ERROR: dict[str, dict[str, Any]] = {
    "a template of its own": _first(HELLO, chat_template="{% for m in messages %}{{ m.content }}{% endfor %}"),
}

_EITHER_ERROR: dict[str, dict[str, Any]] = {
    "unknown model": _first(HELLO) | {"model": "none-such"},
    "too long": _first(HELLO) | {"messages": [{"role": "user", "content": "a1 b2 c3 d4 " * 700}]},
    "too much asked for": _first(HELLO, max_tokens=5000),
    "a limit of nothing": _first(HELLO, max_tokens=0),
    "a limit below nothing": _first(HELLO, max_tokens=-3),
    "too many top logprobs": _first(HELLO, logprobs=True, top_logprobs=21),
    "top logprobs without logprobs": _first(HELLO, top_logprobs=2),
    "a temperature below nothing": _first(HELLO) | {"temperature": -0.5},
    "a top_p above one": _first(HELLO, top_p=1.5),
    "a temperature that is a word": _first(HELLO) | {"temperature": "hot"},
    "several choices without sampling": _first(HELLO, n=2),
    "no choice": _first(HELLO, n=0),
    "an empty cache salt": _first(HELLO, cache_salt=""),
    "a named tool that is missing": _first(WEATHER, tool_choice={"type": "function", "function": {"name": "zzz"}}),
    "a tool choice without tools": _first(HELLO, tool_choice="required"),
    "a tool choice of no kind": _first(WEATHER, tool_choice="perhaps"),
    "an empty list of tools": _first(HELLO, tools=[]),
    "tools that are no list": _first(HELLO, tools={"a": 1}),
    "a schema that is none": _first(CAPITAL, response_format={"type": "json_schema"}),
    "an unknown response format": _first(CAPITAL, response_format={"type": "xml"}),
    "two kinds of structure": _first(CAPITAL, structured_outputs={"regex": "a", "choice": ["b"]}),
    "an expression that is none": _first(CAPITAL, structured_outputs={"regex": "("}),
    "messages that are a text": _first(HELLO) | {"messages": "Hello!"},
    "a message without a role": _first(HELLO) | {"messages": [{"content": "Hello!"}]},
    "an unknown content part": _first(HELLO) | {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
    "no messages": _first(HELLO) | {"messages": []},
    "no field for messages": {"model": "tiny"},
    "a too large seed": _first(HELLO, seed=2**63),
    "a negative stream interval": _first(HELLO, stream_interval=-1),
    "an image for a model without eyes": _first(HELLO)
    | {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "See"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                ],
            }
        ]
    },
}

_GREETING = json.dumps(_first(HELLO)).encode()

_RAW_ERRORS: dict[str, bytes] = {
    "half a JSON": http("POST", CHAT, b'{"model": "tiny", "messages": ['),
    "a JSON with rubbish behind it": http("POST", CHAT, _GREETING + b" x"),
    "single quotes": http("POST", CHAT, b"{'model': 'tiny'}"),
    "an empty body": http("POST", CHAT, b""),
    "no body": http("POST", CHAT),
    "a body of the wrong encoding": http("POST", CHAT, b'{"model": "\xff\xfe"}'),
    "a list": http("POST", CHAT, b"[1, 2]"),
    "a text": http("POST", CHAT, b'"hello"'),
    "a null": http("POST", CHAT, b"null"),
    "the wrong content type": http("POST", CHAT, _GREETING, content_type="text/plain"),
    "no content type": http("POST", CHAT, _GREETING, content_type=None),
    "stream options without a stream": chat(_first(HELLO, stream_options={"include_usage": True})),
    "prompt logprobs in a stream": chat(_first(HELLO, stream=True, prompt_logprobs=1)),
    "GET of the chat": http("GET", CHAT),
    "HEAD of the chat": http("HEAD", CHAT),
    "OPTIONS of the chat": http("OPTIONS", CHAT),
    "HEAD of a route": http("HEAD", "/health"),
    "an unknown route": http("GET", "/no/such/route?a=1&a=2"),
    "an unknown model's page": http("GET", "/v1/models/tiny"),
    "a trailing slash": http("GET", "/v1/models/"),
    "a foreign preflight": http(
        "OPTIONS", CHAT, None, "Origin: http://else.where", "Access-Control-Request-Method: POST"
    ),
    "tokens of an unknown model": http("POST", "/tokenize", b'{"model": "none-such", "prompt": "a"}'),
    "tokens of nothing": http("POST", "/tokenize", b"{}"),
}

_RAW: dict[str, bytes] = {
    "a request id in a header": chat(_first(HELLO), "X-Request-Id: ours-2"),
    "a streamed request id in a header": chat(_first(WEATHER, stream=True), "X-Request-Id: ours-3"),
    "a traceparent": chat(_first(HELLO), "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    "an unsampled traceparent": chat(
        _first(HELLO), "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", "tracestate: a=b"
    ),
    "headers of its own": chat(_first(HELLO), "X-Tag: one", "X-Tag: two", "x-empty:", "Cookie: a=b; c=d"),
    "an origin": chat(_first(HELLO), "Origin: http://else.where"),
    "encodings accepted": chat(_first(HELLO), "Accept-Encoding: gzip, br"),
    "a content type with a charset": http("POST", CHAT, _GREETING, content_type="application/json; charset=utf-8"),
    "a body in chunks": (
        f"POST {CHAT} HTTP/1.1\r\nHost: vllm.test\r\nContent-Type: application/json\r\n"
        f"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    ).encode()
    + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (_GREETING[:20], _GREETING[20:]))
    + b"0\r\n\r\n",
    "a query behind the path": http("POST", f"{CHAT}?a=%20b&a=c", _GREETING),
    "escapes and blanks in the body": http(
        "POST",
        CHAT,
        b' \n{ "messages" : [ { "role":"user", '
        b'"content":"He\\u006clo\\u0021 \\ud83d\\ude00" } ] , "temperature":0.0,'
        b'"max_tokens":2e1 }\n',
    ),
    "a call in the history that is not JSON": chat(
        _first(HELLO, max_tokens=30)
        | {
            "messages": [
                {"role": "user", "content": "Hello!"},
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "x", "arguments": "{bad"}}],
                },
                {"role": "tool", "tool_call_id": "a", "content": "r"},
            ]
        }
    ),
    "health": http("GET", "/health"),
    "version": http("GET", "/version"),
    "ping": http("GET", "/ping"),
    "load": http("GET", "/load"),
    "models": http("GET", "/v1/models"),
    "the API's description": http("GET", "/openapi.json"),
    "tokens of a text": http("POST", "/tokenize", b'{"model": "tiny", "prompt": "Hello there"}'),
    "text of tokens": http("POST", "/detokenize", b'{"model": "tiny", "tokens": [40, 41, 42]}'),
}

_WITHOUT_ID = {path: shape for path, shape in MASKED.items() if path != "id"}
_OWN_MASKS: dict[str, Mapping[str, str]] = {
    "a request id in a header": _WITHOUT_ID,
    "a streamed request id in a header": _WITHOUT_ID,
    "a request id in the body": _WITHOUT_ID,
    "models": MODELS_MASKED,
    "the API's description": {},
}


def _asks() -> list[Ask]:
    asks = []
    for group, hides, error in (
        (_BOTH, False, False),
        (_HIDING, True, False),
        (_HIDING_ERROR, True, True),
        (_EITHER_ERROR, False, True),
    ):
        for name, body in group.items():
            for form in ({}, {"stream": True}):
                asks.append(
                    Ask(
                        f"{name}{', streamed' if form else ''}",
                        chat(body | form),
                        _OWN_MASKS.get(name, MASKED),
                        hides,
                        error,
                    )
                )
    asks += [Ask(f"{name}, streamed", chat(body | {"stream": True})) for name, body in _STREAMED.items()]
    asks += [Ask(name, chat(body)) for name, body in _WHOLE.items()]
    asks += [Ask(name, raw, _OWN_MASKS.get(name, MASKED)) for name, raw in _RAW.items()]
    asks += [Ask(name, raw, error=True) for name, raw in _RAW_ERRORS.items()]
    return asks


ASKS = _asks()
