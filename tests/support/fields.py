"""What a client is told about fields that hide something."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

from serving.request_fields import RULES, FieldProblem, FieldRule, hidden


def field_problem(
    fields: Mapping[str, Any], reads: Set[str], rules: Iterable[FieldRule] = RULES
) -> FieldProblem | None:
    """The first field that hides one of the surfaces in ``reads``."""
    return next((problem for problem in hidden(fields, rules) if not problem.hides.isdisjoint(reads)), None)
