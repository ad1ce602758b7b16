"""Request fields of Anthropic's Messages API that hide a surface from the judge (``serving.request_fields``).

vLLM 0.32 knows few of chat's fields here; those it passes on have chat's own rules. What Anthropic's server would do by
itself (tools of its own kinds, MCP servers, containers) vLLM does not do: it reads such a tool as a plain one or
refuses it, and ignores the rest. The rules are for a server that does, because its calls would never reach the judge.

An assistant message at the end does not prefill: vLLM closes it and begins a new one, unless template arguments say
otherwise, for which there is chat's rule. ``thinking`` and its ``display`` change nothing that could be judged: vLLM
always sends the reasoning that there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from serving.request_fields import PROMPT, RULES, FieldRule, Surface

_PASSED_ON = frozenset({"chat_template_kwargs", "kv_transfer_params", "ec_transfer_params"})
_SERVER_SIDE: frozenset[Surface] = frozenset({"tool_call", "tool_result"})


def _given(name: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda fields: fields.get(name) not in (None, "", [], {})


def _blocks(content: Any) -> Iterator[Mapping[str, Any]]:
    """Content blocks, those in tool results too."""
    for block in content if isinstance(content, list) else ():
        if isinstance(block, Mapping):
            yield block
            yield from _blocks(block.get("content"))


def _media(fields: Mapping[str, Any]) -> bool:
    messages = fields.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, Mapping) and any(one.get("type") == "image" for one in _blocks(message.get("content"))):
            return True
    return False


def _server_tools(fields: Mapping[str, Any]) -> bool:
    tools = fields.get("tools")
    kinds = [tool.get("type") for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, list) else []
    return any(kind not in (None, "custom", "function") for kind in kinds)


MESSAGES_RULES: tuple[FieldRule, ...] = (
    *(rule for rule in RULES if rule.param in _PASSED_ON),
    FieldRule("messages[].content[]", PROMPT, "holds media that no policy can read", _media),
    FieldRule("tools[].type", _SERVER_SIDE, "names a tool that the server would run by itself", _server_tools),
    FieldRule("mcp_servers", _SERVER_SIDE, "has the server call tools by itself", _given("mcp_servers")),
    FieldRule("container", _SERVER_SIDE, "has the server run code by itself", _given("container")),
)
"""In the order in which a client is told."""
