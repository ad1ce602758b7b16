"""Which dialect is spoken at which judged endpoint."""

from __future__ import annotations

from collections.abc import Mapping

from serving.wire.chat import Chat
from serving.wire.dialect import Dialect
from serving.wire.messages import Messages
from serving.wire.responses import Responses

DIALECTS: Mapping[str, Dialect] = {
    "/v1/chat/completions": Chat(),
    "/v1/messages": Messages(),
    "/v1/responses": Responses(),
}
"""By the endpoint's name in ``serving.endpoints``: every judged endpoint, and no other."""
