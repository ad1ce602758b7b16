"""How a request body is read field by field: the order of things that is the same in every API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from serving.wire import coercion
from serving.wire.dialect import Coerced, UpstreamRefuses
from serving.wire.request import ChatRequest

_Parts = TypeVar("_Parts")


def read_fields(
    value: Any,
    readers: Mapping[str, coercion.Reader],
    parts: Callable[[dict[str, Any]], _Parts],
    view: Callable[[dict[str, Any], _Parts], ChatRequest],
) -> ChatRequest | Coerced | UpstreamRefuses:
    """Reads ``value``, the strict value of a request body.

    ``readers`` look at one field each. ``parts`` reads what has an inside (messages, tools), also where a field is
    refused, because a coerced value anywhere wins; ``view`` makes the request of a body that is sound. Both may raise
    what readers raise.
    """
    if value.__class__ is not dict:
        return UpstreamRefuses("", "the body is not an object")
    refusal: coercion.Refused | None = None
    for name, sent in value.items():
        reader = readers.get(name)
        if reader is None:
            continue
        try:
            reader(name, sent)
        except coercion.Refused as problem:
            refusal = problem
        except coercion.Coerced as problem:
            return Coerced(problem.field, problem.message)
    try:
        found = parts(value)
        if refusal is None:
            return view(value, found)
    except coercion.Refused as problem:
        refusal = problem
    except coercion.Coerced as problem:
        return Coerced(problem.field, problem.message)
    return UpstreamRefuses(refusal.field, refusal.message)
