"""What of the input a stage's policies are shown: the fields that they read, and nothing else.

That makes questions small (the cost of an answer is mostly the input's size), lets equal questions be answered
once, and keeps what no policy needs away from the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import PydanticSerializationError

from policies.engines.base import EngineError
from policies.model import DecisionInput

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


def document_of(question: DecisionInput, include: Include | None) -> bytes:
    """The JSON text that the engine is given. Raises :class:`EngineError` (``input``) if it cannot be said in
    JSON, such as a lone surrogate."""
    try:
        return question.model_dump_json(include=include).encode()
    except (PydanticSerializationError, UnicodeEncodeError, ValueError) as error:
        raise EngineError("input", f"the input cannot be written as JSON: {error}"[:300]) from error


def reads_of(stages: Iterable[Mapping[Any, list[str]]], stage: Any) -> frozenset[str]:
    """What several policies together read at ``stage``."""
    return frozenset(name for reads in stages for name in reads.get(stage, ()))
