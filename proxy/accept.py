"""Accepting a judged request: its body, read once, strictly, so that judge and model see the same request."""

from __future__ import annotations

from collections.abc import Set

from aiohttp import hdrs, web
from multidict import CIMultiDict

from proxy.refusals import Refuse
from serving.request_fields import hidden
from serving.wire import strict
from serving.wire.dialect import Coerced, Dialect, UpstreamRefuses
from serving.wire.dialects import dialect_of
from serving.wire.request import ChatRequest

Coverage = dict[str, str]


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """The whole body, at most ``limit`` bytes. Raises ``Refuse``."""
    parts, size = [], 0
    try:
        while data := await request.content.readany():
            size += len(data)
            if size > limit:
                raise Refuse("body_too_large", f"The request body is over the limit of {limit} bytes.")
            parts.append(data)
    except web.RequestPayloadError:
        raise Refuse("malformed_http", "The request body's framing is broken.") from None
    return b"".join(parts)


def read_request(
    endpoint: str, headers: CIMultiDict[str], body: bytes, depth: int, surfaces: Set[str]
) -> tuple[Dialect, ChatRequest, Coverage] | None:
    """The dialect of a request to the judged ``endpoint``, what it says, and what its fields hide from policies that
    only record (field → what).

    None if the model server is to say, in its own words, what is wrong with the request. Raises ``Refuse`` for one
    that judge and model could read differently, or that hides one of ``surfaces`` from an enforcing policy.
    """
    if hdrs.CONTENT_ENCODING in headers:
        given = headers.getall(hdrs.CONTENT_ENCODING)
        if {one.strip().lower() for value in given for one in value.split(",")} - {"", "identity"}:
            raise Refuse("encoded_body", "Send the body without content-encoding: it must be read by the judge.")
    reading = strict.classify(body, depth=depth)
    if reading.verdict == "neither":
        return None
    if reading.verdict == "lax":
        assert reading.problem is not None
        raise Refuse("ambiguous_body", f"The body is not strict JSON: {reading.problem.message}.")
    dialect = dialect_of(endpoint, reading.value)
    view = dialect if isinstance(dialect, Coerced | UpstreamRefuses) else dialect.request(reading.value)
    if isinstance(view, Coerced):
        raise Refuse("ambiguous_field", f"`{view.field}` {view.message}.", param=view.field)
    if isinstance(view, UpstreamRefuses):
        return None
    assert not isinstance(dialect, Coerced | UpstreamRefuses)
    unseen: dict[str, frozenset[str]] = {}
    for found in hidden(reading.value, dialect.fields):
        if not found.hides.isdisjoint(surfaces):
            raise Refuse(found.code, found.message, param=found.param)
        unseen[found.param] = unseen.get(found.param, frozenset()) | found.hides
    return dialect, view, {param: f"unseen: hides {', '.join(sorted(hides))}" for param, hides in unseen.items()}
