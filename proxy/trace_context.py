"""W3C trace context (https://www.w3.org/TR/trace-context/): joining the caller's trace, naming our own spans."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

_TRACEPARENT = re.compile(r"^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$")


class TraceContext(msgspec.Struct, frozen=True):
    """Ids in hex. ``parent_id`` is the caller's span (None: the trace is ours); ``span_id`` is the
    exchange's span, ``model_span_id`` that of the model call, which the model server's own span joins."""

    trace_id: str
    span_id: str
    model_span_id: str
    parent_id: str | None = None
    sampled: bool = True
    flags: str = "01"

    def traceparent(self) -> str:
        """The header for the model server."""
        return f"00-{self.trace_id}-{self.model_span_id}-{self.flags}"


def join(header: str | None, random_hex: Callable[[int], str]) -> TraceContext:
    """The context of a new exchange. A header that is not valid is as if it were not there, as the
    specification asks. ``random_hex(n)`` gives ``n`` random bytes in hex."""
    span, model = random_hex(8), random_hex(8)
    match = _TRACEPARENT.match(header.strip()) if header else None
    if match is not None:
        version, trace, parent, flags, more = match.groups()
        valid = version != "ff" and int(trace, 16) and int(parent, 16) and (version != "00" or more is None)
        if valid:
            sampled = bool(int(flags, 16) & 1)
            return TraceContext(trace, span, model, parent, sampled, flags)
    return TraceContext(random_hex(16), span, model)
