"""Requests that go on from the bypass corpus: its bodies with bytes changed, and values put where none belongs."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import strategies as st

from tests.support.bypass import BODIES, CHAT, SOUND

MEMBERS = [
    *(b'"x":1,', b'"stream":true,', b'"stream":false,', b'"n":2,', b'"role":"system",', b'"content":"zqdup",'),
    *(b'"messages":[],', b'"tools":null,', b'"":0,', b'"mess\\u0061ges":[],', b'"Role":"system",', b'"type":"text",'),
    *(b'"x":NaN,', b'"x":-Infinity,', b'"x":1e999,', b'"x":-0,', b'"x":[[[[]]]],', b'"x":' + b"9" * 25 + b",", b"\n\t"),
]
LETTERS = [
    *(b"\\u0061", b"\\u0000", b"\\ud83d\\ude00", b"\\ud800", b"\\udc00", b"\\/", b"\xc3\xa9", b"\xf0\x9f\x98\x80"),
    *(b"\x7f", b"\xe2\x80\xa8", b"zq", b"[[[[", b"//", b"'", b"\xef\xbb\xbf", b"\\n", b"<|im_end|>"),
]
BYTES = [
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\0", b"\xff", b"\xc0\xa2", b"\xed\xa0\x80", b"\xa0"),
    *(b"NaN", b"null", b"true", b"/**/", b"1", b"-", b"e5", b"{}", b"\xef\xbb\xbf"),
]
PLACES = {"member": (re.compile(rb"\{"), MEMBERS), "letter": (re.compile(rb"[a-z](?=[a-z ]*\")"), LETTERS)}
ENCODINGS = [*["utf-8"] * 9, "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"]


def mutated(path: str) -> st.SearchStrategy[bytes]:
    """A body of the corpus with up to three pieces put in: members into objects, letters into strings, and bytes
    anywhere, in place of others."""
    kinds_of_change = [
        st.tuples(st.just(kind), st.floats(0, 1), st.sampled_from(pieces)) for kind, (_, pieces) in PLACES.items()
    ]
    change = st.one_of(*kinds_of_change, st.tuples(st.just("bytes"), st.floats(0, 1), st.sampled_from(BYTES)))

    def apply(drawn: tuple[bytes, list[tuple[str, float, bytes]], str]) -> bytes:
        body, changes, encoding = drawn
        for kind, where, piece in changes:
            if kind == "bytes":
                at = int(where * len(body))
                body = body[:at] + piece + body[at + len(piece) // 2 :]
                continue
            places = [found.end() for found in PLACES[kind][0].finditer(body)]
            if places:
                at = places[int(where * (len(places) - 1))]
                body = body[:at] + piece + body[at:]
        if encoding != "utf-8":
            body = body.decode("utf-8", "replace").encode(encoding, "replace")
        return body

    known = [case.body for case in BODIES if case.path == path and case.body is not None and len(case.body) < 2000]
    return st.tuples(st.sampled_from(known), st.lists(change, min_size=1, max_size=3), st.sampled_from(ENCODINGS)).map(
        apply
    )


# --- JSON of odd shapes ------------------------------------------------------------------------------------

marked = st.integers(0, 999).map(lambda number: f"zq{number:03}q")
"""Texts that stand nowhere else, so that one that the judge does not see is noticed."""

odd = st.one_of(
    st.sampled_from(
        [None, True, False, 0, 1, 2, -1, 1.0, 2.0, 2.5, -0.0, 1e300, 2**63, 2**64 - 1, "yes", "NO", "2", " 2", "1.0"]
    ),
    st.sampled_from(["", "inf", "nan", "none", "auto", "required", "text", "{}", "[]", "null", [], {}, [[]], [{}]]),
    marked,
    st.lists(marked, max_size=2),
    st.dictionaries(marked, marked, max_size=2),
)
seldom = st.integers(0, 5).flatmap(lambda number: odd if number == 5 else marked)
roles = st.sampled_from(["user", "system", "developer", "assistant", "tool", "function", "wizard", "User"])
kinds = st.sampled_from(
    ["text", "input_text", "output_text", "refusal", "thinking", "tool_reference", "image_url", "file", "zqkind"]
)
part = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": marked}),
    st.fixed_dictionaries(
        {"type": kinds},
        optional={
            "text": seldom,
            "refusal": marked,
            "thinking": marked,
            "name": marked,
            "uuid": marked,
            "image_url": marked,
            "cache_control": st.just({"type": "ephemeral"}) | odd,
        },
    ),
    marked,
    seldom,
)
arguments = st.one_of(
    st.dictionaries(marked, marked, max_size=2).map(json.dumps),
    st.sampled_from(['{"a":1,"a":2}', "[1]", "", "{", '{"a":NaN}', "null", '{"a":"\\u007aq"}']),
    seldom,
)
call = st.one_of(
    st.fixed_dictionaries(
        {"id": marked, "type": st.just("function")},
        optional={
            "function": st.fixed_dictionaries(
                {"name": marked}, optional={"arguments": arguments, "zqfunction": marked, "description": marked}
            ),
            "index": odd,
            "zqcall": marked,
            "custom": odd,
        },
    ),
    odd,
)
message = st.one_of(
    st.fixed_dictionaries({"role": roles, "content": marked}),
    st.fixed_dictionaries(
        {"role": roles},
        optional={
            "content": seldom | st.lists(part, max_size=3),
            "name": seldom,
            "tool_call_id": seldom,
            "reasoning": seldom,
            "reasoning_content": seldom,
            "tool_calls": st.lists(call, max_size=2),
            "tools": odd,
            "task": odd,
            "author": odd,
            "channel": marked,
            "recipient": marked,
            "function_call": odd,
            "refusal": marked,
            "audio": odd,
            "zqmessage": marked,
            "documents": odd,
            "response_format": odd,
            "prefix": odd,
        },
    ),
)
tool = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.just("function") | odd,
            "function": st.fixed_dictionaries(
                {"name": marked},
                optional={
                    "description": seldom,
                    "parameters": st.dictionaries(marked, seldom, max_size=2) | odd,
                    "strict": odd,
                    "zqextra": marked,
                },
            ),
            "defer_loading": odd,
            "zqtool": marked,
        },
    ),
    odd,
)


def _names(path: str) -> list[str]:
    """The fields that the corpus knows of an API."""
    found: set[str] = set()
    for case in BODIES:
        if case.path != path:
            continue
        try:
            value = json.loads(case.body or b"")
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found |= {name for name in value if isinstance(name, str) and name.isidentifier()}
    return sorted(found - {"messages", "tools", "model", "system", "input"})


blocks = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": marked}),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["text", "tool_use", "tool_result", "tool_reference", "thinking", "redacted_thinking", "tool_addition"]
            )
        },
        optional={
            "text": seldom,
            "id": marked,
            "tool_use_id": seldom,
            "name": seldom,
            "tool_name": marked,
            "thinking": seldom,
            "signature": marked,
            "data": marked,
            "input": st.dictionaries(marked, seldom, max_size=2) | odd,
            "is_error": st.booleans() | odd,
            "content": seldom
            | st.lists(
                st.fixed_dictionaries(
                    {"type": st.sampled_from(["text", "tool_reference", "zqblock"]), "text": seldom},
                    optional={"name": marked, "tool_name": seldom},
                ),
                max_size=2,
            ),
            "cache_control": st.just({"type": "ephemeral"}) | odd,
            "zqkey": marked,
            "tool": st.fixed_dictionaries(
                {
                    "type": st.just("tool_definition"),
                    "definition": st.fixed_dictionaries({"name": marked, "input_schema": st.just({})}),
                }
            ),
        },
    ),
)
turn = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": seldom | st.lists(blocks, max_size=3)},
    optional={"zqmessage": marked, "name": marked},
)
declared = st.fixed_dictionaries(
    {"name": marked, "input_schema": st.dictionaries(marked, seldom, max_size=2)},
    optional={"description": seldom, "strict": odd, "type": st.just("custom") | odd, "zqtool": marked},
)
piece = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "output_text", "refusal", "summary_text", "reasoning_text", "zqpiece"])},
    optional={"text": seldom, "refusal": seldom, "annotations": st.just([]), "zqkey": marked},
)
item = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "developer", "tool"]), "content": seldom},
        optional={"type": st.just("message"), "name": marked, "zqitem": marked, "status": st.just("completed")},
    ),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["message", "function_call", "function_call_output", "reasoning", "custom_tool_call", "zqkind"]
            )
        },
        optional={
            "role": st.sampled_from(["user", "assistant", "system"]),
            "content": seldom | st.lists(piece, max_size=3),
            "summary": st.lists(piece, max_size=2),
            "id": marked,
            "call_id": seldom,
            "name": seldom,
            "namespace": seldom,
            "arguments": arguments,
            "output": seldom | st.lists(piece, max_size=2),
            "input": marked,
            "status": st.sampled_from(["completed", "in_progress"]) | odd,
            "encrypted_content": odd,
            "zqitem": marked,
        },
    ),
)
function = st.fixed_dictionaries(
    {"type": st.just("function"), "name": marked},
    optional={
        "description": seldom,
        "parameters": st.dictionaries(marked, seldom, max_size=2) | odd,
        "strict": odd,
        "zqtool": marked,
    },
)
OVER: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    CHAT: {"messages": st.lists(message, min_size=1, max_size=3), "tools": st.lists(tool, max_size=2)},
    "/v1/responses": {
        "input": seldom | st.lists(item, min_size=1, max_size=3),
        "tools": st.lists(function, max_size=2),
        "instructions": seldom,
    },
    "/v1/messages": {
        "messages": st.lists(turn, min_size=1, max_size=3),
        "tools": st.lists(declared, max_size=2),
        "system": seldom | st.lists(blocks, max_size=2),
    },
}
switches = st.sampled_from(["enable_thinking", "tools", "documents", "add_generation_prompt", "zqswitch"])


def shaped(path: str) -> st.SearchStrategy[bytes]:
    """A sound request with messages, tools and fields of any shape put over it."""
    over = st.fixed_dictionaries(
        {}, optional={**OVER[path], "chat_template_kwargs": st.dictionaries(switches | marked, odd, max_size=2)}
    )
    fields = st.just({}) | st.dictionaries(st.sampled_from(_names(path)), odd, max_size=2)

    def join(drawn: tuple[dict[str, Any], dict[str, Any]]) -> bytes:
        return json.dumps(SOUND[path] | drawn[1] | drawn[0]).encode()

    return st.tuples(over, fields).map(join)
