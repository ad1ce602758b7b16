"""What of the input a stage's policies are shown: the fields that they read, and nothing else.

That makes questions small (the cost of an answer is mostly the input's size), lets equal questions be answered
once, and keeps what no policy needs away from the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_core import PydanticSerializationError

from policies.engines.base import EngineError
from policies.model import DecisionInput, OrderPassage

EVERYTHING = "*"

Include = dict[str, Any]


def include_of(reads: Iterable[str]) -> Include | None:
    """The ``include`` tree of pydantic for dotted field names; None for all of the input.

    A name below a part that is read whole adds nothing to it; a name that the input does not have is left out
    (to the policy it is undefined either way).
    """
    tree: Include = {}
    for name in sorted(reads):
        if name == EVERYTHING:
            return None
        branch: Any = tree
        *parents, last = name.split(".")[:2]
        for step in parents:
            branch = branch.setdefault(step, {})
            if branch is True:
                break
        else:
            branch[last] = True
    return tree


class Orders(list[OrderPassage]):
    """Passages of which it is known how they are ``written`` as JSON, with commas between them."""

    def __init__(self, passages: Iterable[OrderPassage], written: bytes) -> None:
        super().__init__(passages)
        self.written = written


def document_of(question: DecisionInput, include: Include | None, orders: Sequence[OrderPassage] = ()) -> bytes:
    """The JSON text that the engine is given. ``orders``: those of ``question.request``; if they are
    :class:`Orders`, they are not written again. Raises :class:`EngineError` (``input``) if it cannot be said in JSON,
    such as a lone surrogate."""
    try:
        of_request = include.get("request") if include is not None else None
        if isinstance(orders, Orders) and isinstance(of_request, dict) and "orders" in of_request:
            return _with_orders(question, include or {}, of_request, orders.written)
        return question.model_dump_json(include=include).encode()
    except (PydanticSerializationError, UnicodeEncodeError, ValueError) as error:
        raise EngineError("input", f"the input cannot be written as JSON: {error}"[:300]) from error


def _with_orders(question: DecisionInput, include: Include, of_request: Include, orders: bytes) -> bytes:
    others = {name: below for name, below in include.items() if name != "request"}
    fields = {name: below for name, below in of_request.items() if name != "orders"}
    own = question.request.model_dump_json(include=fields).encode()[1:-1] if fields else b""
    rest = question.model_dump_json(include=others).encode()[1:-1] if others else b""
    comma = b"," if own else b""
    return b'{"request":{%s%s"orders":[%s]}%s%s}' % (own, comma, orders, b"," if rest else b"", rest)


def reads_of(stages: Iterable[Mapping[Any, list[str]]], stage: Any) -> frozenset[str]:
    """What several policies together read at ``stage``."""
    return frozenset(name for reads in stages for name in reads.get(stage, ()))
