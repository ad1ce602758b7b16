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
    """Name → digest. Of several tools of one name, all of them together are one, whatever their order."""
    found: dict[str, set[str]] = {}
    for tool in tools:
        found.setdefault(tool.name, set()).add(digest_of(tool))
    return {name: one.pop() if len(one) == 1 else _joined(one) for name, one in found.items()}


def _joined(several: Iterable[str]) -> str:
    return hashlib.blake2b("".join(sorted(several)).encode(), digest_size=DIGEST_BYTES).hexdigest()
