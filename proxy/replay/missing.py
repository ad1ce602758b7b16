"""Which policies cannot be asked again about a stored exchange, because what they read is not on record."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

from policies.inputs import HISTORY_FIELDS, OF_THE_MOMENT
from policies.model import Mode, Stage
from policies.service import PolicySet
from policies.text_rules import names_field, reads_field
from proxy.replay.stored import Unknown

_ASKED_BY_NAME = frozenset({*(f"call.{name}" for name in OF_THE_MOMENT), *HISTORY_FIELDS})
"""Fields that only a policy which names them depends on; one that reads a whole takes what there is."""


class Missing(msgspec.Struct, frozen=True):
    """Why a policy could not be asked: the field that it reads, and what became of it. ``enforced``: its answer might
    have stopped something."""

    policy: str
    field: str
    why: str
    enforced: bool = True


class Needs:
    """Of one policy set, which policies need what is lost."""

    def __init__(self, policies: PolicySet) -> None:
        self._policies = policies
        self._known: dict[tuple[Stage, frozenset[str]], tuple[tuple[str, str], ...]] = {}

    def of(self, stage: Stage, lost: Unknown) -> tuple[Missing, ...]:
        """The policies that read something that is lost."""
        key = (stage, frozenset(lost))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = tuple(_dependent(self._policies.asked(stage), lost))
        modes = self._policies.modes
        return tuple([Missing(policy, name, lost[name], modes[policy] is Mode.ENFORCE) for policy, name in known])

    def of_answer(self, why: str) -> tuple[Missing, ...]:
        """The policies that might have stopped an answer of which not all is known."""
        asked = {**self._policies.asked(Stage.TOOL_CALL), **self._policies.asked(Stage.OUTPUT)}
        enforced = [policy for policy in sorted(asked) if self._policies.modes[policy] is Mode.ENFORCE]
        return tuple([Missing(policy, "answer", why) for policy in enforced])


def is_recorded(name: str, moment: Mapping[str, Any]) -> bool:
    """Whether a field is in what was recorded of a moment."""
    part, _, below = name.partition(".")
    return part in moment and (not below or (part == "run" and below in moment["run"]))


def _dependent(asked: Mapping[str, Collection[str]], lost: Unknown) -> Iterator[tuple[str, str]]:
    """Each policy that depends on something lost, with the first such field."""
    for policy, reads in asked.items():
        for name in lost:
            if names_field(reads, name) if name in _ASKED_BY_NAME else reads_field(reads, name):
                yield policy, name
                break
