"""What a tool is, as one short text: to see that it is no longer what it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from serving.wire.request import SentTool

DIGEST_BYTES = 16


def digest_of(tool: SentTool) -> str:
    """32 hex digits of name, description and parameters, however their JSON was written."""
    form = [tool.name, tool.description, tool.parameters]
    try:
        data = msgspec.json.encode(form, order="sorted")
    except UnicodeEncodeError:
        data = repr(form).encode("ascii", "backslashreplace")
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def digests(tools: Iterable[SentTool]) -> dict[str, str]:
    """Name → digest. Of several tools of one name, all of them together are one."""
    found: dict[str, str] = {}
    for tool in tools:
        own = digest_of(tool)
        known = found.get(tool.name)
        found[tool.name] = own if known is None else hashlib.blake2b((known + own).encode(), digest_size=16).hexdigest()
    return found
