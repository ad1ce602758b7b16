"""What a decision about a request changes in its messages: spans that are masked, results that are withheld.

A policy names what it means by the paths of its findings' redactions: ``/messages/N/text`` with ``start`` and ``end``
masks a span of the Nth message that it was shown, ``/messages/N`` (or no span) all of it. ``redact`` puts the
redaction's replacement there, ``quarantine`` a notice, whose words are ours and the policy's and never the traffic's.
Whatever else a path says is no redaction that can be made, and then the request is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from policies.model import Action, Decision, Mode, PolicyFinding
from serving.wire.masking import joined
from serving.wire.message_texts import TextChange

CHANGES = frozenset({Action.REDACT, Action.QUARANTINE})
"""What is to be changed; what cannot be is refused."""
_PATH = re.compile(r"/messages/(0|[1-9][0-9]{0,8})(/text)?")


class CannotRedact(ValueError):
    """A finding asks for a change that cannot be made: says which one."""


def changes_of(decision: Decision, texts: Sequence[str]) -> dict[int, TextChange]:
    """The changes that a decision asks for: index of a message that was shown (``texts``) → what becomes of it.

    Raises :class:`CannotRedact`."""
    spans: dict[int, list[tuple[int, int, str]]] = {}
    notices: dict[int, str] = {}
    for found in decision.findings:
        if found.mode is not Mode.ENFORCE or found.exception is not None:
            continue
        action = found.finding.action
        if action not in CHANGES:
            continue
        if not found.finding.redactions:
            raise CannotRedact(f"{found.policy}/{found.finding.id} names no place")
        for redaction in found.finding.redactions:
            path = _PATH.fullmatch(redaction.path)
            index = int(path[1]) if path is not None else -1
            if not 0 <= index < len(texts):
                raise CannotRedact(f"{found.policy}/{found.finding.id} names no message")
            if action is Action.QUARANTINE:
                notices.setdefault(index, _notice(found))
                continue
            start = 0 if redaction.start is None else redaction.start
            end = len(texts[index]) if redaction.end is None else redaction.end
            if not 0 <= start <= end <= len(texts[index]) or (start == end and texts[index]):
                raise CannotRedact(f"{found.policy}/{found.finding.id} names a span outside of the message, or nothing")
            spans.setdefault(index, []).append((start, end, redaction.replacement))
    changes = {index: TextChange(spans=joined(found)) for index, found in spans.items()}
    return changes | {index: TextChange(whole=notice) for index, notice in notices.items()}


def _notice(found: PolicyFinding) -> str:
    return (
        f"[Withheld by policy {found.policy}/{found.finding.id}. This content was not given to the model. "
        f"{found.finding.message}]"
    )
