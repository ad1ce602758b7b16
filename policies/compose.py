"""How many answers become one decision.

    allow < flag < redact | quarantine < approve < deny < terminate

The strictest *enforced* action wins and everything is recorded. A policy never sees another's findings, so none
can undo another's. A policy that did not answer, or whose answer does not have the shape of findings, is an
error of that policy alone: it denies (if the policy is enforced) and leaves the others' findings standing.

The order of what comes out of a set is an engine's own. What reaches a decision is in ours: findings by what they
weigh, their redactions by where they are, their tags by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from policies.engines.base import EngineError
from policies.model import (
    Action,
    Decision,
    Finding,
    Mode,
    PolicyError,
    PolicyFinding,
    Redaction,
    Severity,
    Stage,
)

STRICTNESS: Mapping[Action, int] = {
    Action.ALLOW: 0,
    Action.FLAG: 1,
    Action.REDACT: 2,
    Action.QUARANTINE: 2,
    Action.APPROVE: 3,
    Action.DENY: 4,
    Action.TERMINATE: 5,
}
_SEVERITIES = list(Severity)
_FINDINGS = TypeAdapter(list[Finding])
_NUMBER = re.compile("(0|[1-9][0-9]*)")

_NOT_DONE: Mapping[Stage, str] = {
    Stage.REQUEST: "The request was not sent to the model.",
    Stage.REASONING: "The answer was ended here.",
    Stage.TOOL_CALL: "The tool call was not executed.",
    Stage.OUTPUT: "The answer was ended here.",
    Stage.RESPONSE: "The answer was withheld.",
}
_UNAVAILABLE = (
    "It could not be judged, because the policy check is not available. Nothing is wrong with what you asked; "
    "it may be tried again later."
)
_UNJUDGEABLE = (
    "It could not be judged in this form, or not in the time there is. Use fewer, shorter and plainer values."
)


def findings_of(answer: Any) -> list[Finding]:
    """Check what Rego gave for one policy: a set (JSON: an array) of finding objects. They come in our order, and so do
    the redactions and tags of each.

    Raises :class:`EngineError` (``policy``) for any other shape, unknown field or unknown action.
    """
    try:
        found = _FINDINGS.validate_python(answer)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "the answer"
        raise EngineError("policy", f"not a set of findings: {place}: {first['msg']}") from error
    for finding in found:
        finding.redactions.sort(key=_place)
        finding.tags.sort()
    if len(found) > 1:
        found.sort(key=lambda finding: (finding.message, [*map(_place, finding.redactions)], finding.tags))
    return found


def compose(
    stage: Stage,
    modes: Mapping[str, Mode],
    answers: Mapping[str, list[Finding] | EngineError],
    *,
    passes: Callable[[str], bool] | None = None,
    excepted: Callable[[str, str], str | None] | None = None,
) -> Decision:
    """One decision from the answers of the policies that were asked, each with its mode.

    ``passes`` says whether a policy may let by what it could not judge; only an engine that is not there is asked
    about: a failure that an input can bring about always denies, or whoever writes the input could switch a policy
    off. ``excepted`` gives the exception that covers a policy's finding, if there is one.
    """
    findings: list[PolicyFinding] = []
    errors: list[PolicyError] = []
    for policy in sorted(answers):
        answer, mode = answers[policy], modes[policy]
        if isinstance(answer, EngineError):
            passed = mode is Mode.ENFORCE and answer.excusable and passes is not None and passes(policy)
            errors.append(PolicyError(policy=policy, mode=mode, cause=answer.cause, message=str(answer), passed=passed))
        else:
            findings += (
                PolicyFinding(
                    policy=policy,
                    mode=mode,
                    finding=finding,
                    exception=excepted(policy, finding.id) if excepted is not None else None,
                )
                for finding in answer
            )
    findings.sort(key=_rank)
    outcome = _from_findings(stage, findings)
    if STRICTNESS[outcome.action] < STRICTNESS[Action.DENY]:
        denying = [error for error in errors if error.mode is Mode.ENFORCE and not error.passed]
        if denying:
            outcome = _from_error(stage, denying)
    return outcome.model_copy(
        update={"findings": findings, "errors": errors, "asked": sorted(answers)},
    )


def _place(redaction: Redaction) -> tuple[Any, ...]:
    """By path, whose numbers count as numbers, then by where it begins and ends: the order in which it is read."""
    steps = _NUMBER.split(redaction.path)
    steps[1::2] = [step.zfill(9) for step in steps[1::2]]
    start = -1 if redaction.start is None else redaction.start
    end = math.inf if redaction.end is None else redaction.end
    return steps, start, end, redaction.replacement


def _rank(entry: PolicyFinding) -> tuple[int, int, str, str]:
    """Strictest first, then most severe, then by name: the same findings always give the same rule."""
    finding = entry.finding
    severity = _SEVERITIES.index(finding.severity)
    return (-STRICTNESS[finding.action], -severity, entry.policy, finding.id)


def _from_findings(stage: Stage, ranked: list[PolicyFinding]) -> Decision:
    for entry in ranked:
        if entry.mode is not Mode.ENFORCE or entry.exception is not None:
            continue
        rule = f"{entry.policy}/{entry.finding.id}"
        decision = Decision(stage=stage, action=entry.finding.action, rule=rule)
        if decision.refuses:
            return decision.model_copy(update={"refusal": _refusal(stage, rule, entry.finding.message)})
        return decision
    return Decision(stage=stage, action=Action.ALLOW)


def _from_error(stage: Stage, errors: list[PolicyError]) -> Decision:
    by_input = next((error for error in errors if error.cause == "input"), None)
    error = by_input or errors[0]
    rule = f"{error.policy}/on_error"
    return Decision(
        stage=stage,
        action=Action.DENY,
        rule=rule,
        refusal=_refusal(stage, rule, _UNJUDGEABLE if by_input else _UNAVAILABLE),
        code="policy_denied" if by_input else "judge_unavailable",
    )


def _refusal(stage: Stage, rule: str, message: str) -> str:
    return f"Blocked by policy {rule}. {_NOT_DONE[stage]} {message}"
