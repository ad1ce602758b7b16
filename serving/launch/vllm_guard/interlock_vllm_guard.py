"""Asks for the API key on *every* path of the vLLM that Interlock launched.

vLLM's own ``--api-key`` guards paths below ``/v1``, ``/v2``, ``/inference`` and ``/cohere`` only:
``/invocations`` and ``/generative_scoring`` make tokens without it, and the control paths steer the server. An
agent on the same machine could go round Interlock through them. This is an ASGI middleware for vLLM's
``--middleware``; it runs inside vLLM's interpreter, so it imports nothing but the standard library. The key is
the one that vLLM itself reads, ``VLLM_API_KEY``.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class KeyOnEveryPath:
    """401 in vLLM's own words without the key; a WebSocket is closed before it opens."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._wanted = _digest(os.environ["VLLM_API_KEY"].encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._knows(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"error":"Unauthorized"}'})

    def _knows(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            scheme, _, key = value.partition(b" ")
            if name == b"authorization" and scheme.lower() == b"bearer":
                return hmac.compare_digest(_digest(key), self._wanted)
        return False


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
