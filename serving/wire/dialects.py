"""Which dialect is spoken at which judged endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.wire.batch import Batch
from serving.wire.chat import Chat
from serving.wire.completions import Completions
from serving.wire.dialect import Coerced, Dialect, UpstreamRefuses
from serving.wire.messages import Messages
from serving.wire.responses import Responses

_CHAT = Chat()
_COMPLETIONS = Completions()
_RESPONSES = Responses()

DIALECTS: Mapping[str, Dialect] = {
    "/v1/chat/completions": _CHAT,
    "/v1/messages": Messages(),
    "/v1/responses": _RESPONSES,
    "/v1/responses/{id}": _RESPONSES,
    "/v1/responses/{id}/cancel": _RESPONSES,
    "/v1/chat/completions/batch": Batch(),
    "/v1/completions": _COMPLETIONS,
}
"""By the endpoint's name in ``serving.endpoints``: every judged endpoint, but for :data:`BY_BODY`."""

FETCHES = frozenset({"/v1/responses/{id}", "/v1/responses/{id}/cancel"})
"""Those that ask for an answer that was made before."""

BY_BODY = frozenset({"/invocations"})
"""Judged endpoints where the body decides."""


def dialect_of(endpoint: str, value: Any) -> Dialect | Coerced | UpstreamRefuses:
    """The dialect of a request to a judged endpoint; ``value`` is the strict value of its body.

    ``/invocations`` tries vLLM's request models in turn, chat completions first. What a body is that would fit both
    is vLLM's to find out, so it is refused here.
    """
    if endpoint not in BY_BODY:
        return DIALECTS[endpoint]
    if not isinstance(value, dict):
        return UpstreamRefuses("", "the body is not an object")
    chat, completion = "messages" in value, "prompt" in value or "prompt_embeds" in value
    if chat and completion:
        return Coerced("messages", "must not stand beside a prompt")
    if chat or completion:
        return _CHAT if chat else _COMPLETIONS
    return UpstreamRefuses("messages", "neither messages nor a prompt")
