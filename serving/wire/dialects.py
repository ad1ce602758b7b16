"""Which dialect is spoken at which judged endpoint."""

from __future__ import annotations

from collections.abc import Mapping

from serving.wire.chat import Chat
from serving.wire.dialect import Dialect
from serving.wire.messages import Messages
from serving.wire.responses import Responses

_RESPONSES = Responses()

DIALECTS: Mapping[str, Dialect] = {
    "/v1/chat/completions": Chat(),
    "/v1/messages": Messages(),
    "/v1/responses": _RESPONSES,
    "/v1/responses/{id}": _RESPONSES,
    "/v1/responses/{id}/cancel": _RESPONSES,
}
"""By the endpoint's name in ``serving.endpoints``: every judged endpoint, and no other."""

FETCHES = frozenset({"/v1/responses/{id}", "/v1/responses/{id}/cancel"})
"""Those that ask for an answer that was made before."""
