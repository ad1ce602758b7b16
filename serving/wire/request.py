"""A judged request as the model server will read it.

The strict reading (``serving.wire.strict``) makes sure that there is only one way to read the bytes; this is
what they say, reduced to what Interlock needs. The bytes themselves go upstream unchanged.
"""

from __future__ import annotations

from typing import Any

import msgspec


class SentCall(msgspec.Struct, frozen=True):
    """A tool call inside an assistant message of the history. ``arguments`` is the text as sent, well-formed
    or not ("" if none)."""

    id: str | None
    name: str
    arguments: str


class SentMessage(msgspec.Struct, frozen=True):
    """One message of the history.

    ``text`` joins all text parts with newlines ("" if none), as vLLM does for templates that take a string;
    ``media`` names the types of other parts (``image_url`` …). ``reasoning`` is what was sent under that name,
    else under ``reasoning_content``.
    """

    role: str
    text: str
    reasoning: str | None = None
    calls: tuple[SentCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    media: tuple[str, ...] = ()


class SentTool(msgspec.Struct, frozen=True):
    """A tool that the request offers. ``parameters`` is its JSON Schema."""

    name: str
    description: str | None = None
    parameters: Any = None


class ChatRequest(msgspec.Struct, frozen=True):
    """A request of any judged API, made by that API's dialect (``serving.wire.dialect``).

    ``limit`` is the most tokens that an answer may have, whatever the API calls it; None if neither request nor API
    sets one. ``tool_choice`` is vLLM's default (``auto`` with tools, else ``none``) where the request has none; null
    stays None. ``sampling`` holds the sampling fields as sent. ``fields`` names every top-level field that was sent,
    known or not. ``shows_tokens``: the answer will carry logprobs or token ids; ``calls_possible``: tools are offered
    and not forbidden.

    ``late_text``: a stream's tokens come before the text that they spell.

    ``previous`` names an answer that the model server is to put before the messages; ``stored``: it may keep this one,
    under ``answer_id`` if that is given; ``background``: it makes it whether anybody listens or not. ``after``: the
    client has had the answer's events up to this number before.
    """

    model: str | None
    messages: tuple[SentMessage, ...]
    tools: tuple[SentTool, ...] = ()
    tool_choice: Any = None
    stream: bool = False
    include_usage: bool = False
    n: int = 1
    limit: int | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    token_ids: bool = False
    sampling: dict[str, Any] = {}
    fields: frozenset[str] = frozenset()
    late_text: bool = False
    previous: str | None = None
    answer_id: str | None = None
    stored: bool = False
    background: bool = False
    after: int | None = None

    @property
    def shows_tokens(self) -> bool:
        return self.logprobs or self.token_ids

    @property
    def calls_possible(self) -> bool:
        return bool(self.tools) and self.tool_choice != "none"
