"""What the test found, cell by cell: pass, leak, or unjudged, and why.

A cell is expected to pass if a policy that finds its canary is enforced, is one of the two that are enforced where no
settings say otherwise, or was named by the user. Which policies find a canary is learnt by asking once with all of them
in shadow, so a policy of one's own counts as the shipped ones do.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Literal

from policies.model import Mode
from proxy.selftest.canaries import LAWFUL, SURFACES, TEXTS
from proxy.selftest.running import Cell, Seen

Outcome = Literal["pass", "leak", "unjudged"]


@dataclass(frozen=True)
class Verdict:
    """``policies``: those that were to stop it, or that saw it."""

    cell: Cell
    outcome: Outcome
    why: str
    policies: tuple[str, ...] = ()


def finders_of(reference: list[Seen]) -> dict[str, frozenset[str]]:
    """Surface → the policies that find what is planted there, as a run with all in shadow shows it."""
    own: dict[str, frozenset[str]] = {surface.name: frozenset() for surface in SURFACES}
    for seen in reference:
        own[seen.cell.surface.name] |= frozenset(seen.finders)
    return {surface.name: own[surface.name] | own.get(surface.like or "", frozenset()) for surface in SURFACES}


class Verdicts:
    """``modes``: the policies in force for the agent. ``names``: those of the bundle. ``expected``: those that the
    user expects to stop what they find, in whatever mode."""

    def __init__(
        self,
        finders: Mapping[str, frozenset[str]],
        modes: Mapping[str, Mode],
        names: Set[str],
        expected: Set[str] = frozenset(),
    ) -> None:
        self._finders = finders
        self._modes = modes
        self._names = names
        self._expected = expected

    def of(self, seen: Seen) -> Verdict:
        """What a cell's answer means."""
        surface = seen.cell.surface
        if surface.canary == LAWFUL:
            return self._lawful(seen)
        finders = self._finders[surface.name]
        wanted = {name for name in finders if self._mode(name) == "enforce" or name in self._expected}
        if surface.starter in self._names:
            wanted.add(str(surface.starter))
        if not seen.reached:
            return self._stopped(seen, wanted | finders)
        if wanted:
            return Verdict(seen.cell, "leak", self._why_leaked(seen, wanted), tuple(sorted(wanted)))
        if not finders:
            return Verdict(seen.cell, "unjudged", "no policy of the bundle finds it there, with the data that it has")
        told = ", ".join(f"{name} ({self._mode(name)})" for name in sorted(finders))
        return Verdict(seen.cell, "unjudged", f"not enforced: {told} would find it", tuple(sorted(finders)))

    def _stopped(self, seen: Seen, policies: set[str]) -> Verdict:
        if seen.stopped_by is not None:
            return Verdict(seen.cell, "pass", f"stopped by {seen.stopped_by}", tuple(sorted(policies)))
        why = f"refused before it was judged ({seen.refused})" if seen.refused else f"no answer (status {seen.status})"
        return Verdict(seen.cell, "unjudged", why, tuple(sorted(policies)))

    def _lawful(self, seen: Seen) -> Verdict:
        if not seen.missing and seen.status == 200:
            return Verdict(seen.cell, "pass", "arrived")
        by = seen.stopped_by or seen.refused or f"status {seen.status}"
        return Verdict(seen.cell, "unjudged", f"a lawful answer does not arrive: {by}")

    def _why_leaked(self, seen: Seen, wanted: set[str]) -> str:
        if seen.stopped_by is not None and seen.cell.stream and seen.cell.surface.name in TEXTS:
            return f"{seen.stopped_by} ended the answer when it had left: the policy holds no text back"
        if seen.stopped_by is not None:
            return f"{seen.stopped_by} decided, and it came through all the same"
        return ", ".join(f"{name} is {self._state(name)}" for name in sorted(wanted))

    def _mode(self, name: str) -> str:
        mode = self._modes.get(name)
        return "off" if mode is None else mode.value

    def _state(self, name: str) -> str:
        mode = self._mode(name)
        return {"enforce": "enforced, and did not stop it", "off": "off"}.get(mode, f"in {mode} only")
