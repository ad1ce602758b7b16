"""The bytes of requests for a real vLLM, or for Interlock before it, in one piece."""

from __future__ import annotations

import json
from typing import Any

CHAT = "/v1/chat/completions"


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
