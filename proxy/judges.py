"""Which judge an exchange has: agents for whom the roll-out says the same share one."""

from __future__ import annotations

from collections.abc import Callable

from policies.in_force import Policies
from policies.service import PolicySet
from proxy.identity import Agent
from proxy.judge import Judge


class Judges:
    """``make`` gives the judge for a set of policies. An exchange keeps the judge that it began with."""

    def __init__(self, policies: Policies, make: Callable[[PolicySet], Judge]) -> None:
        self._make = make
        self.use(policies)

    def use(self, policies: Policies) -> None:
        """From now on, for exchanges that begin."""
        self.policies = policies
        self._judges: dict[PolicySet, Judge] = {}

    def of(self, agent: Agent) -> Judge:
        wanted = self.policies.of(agent.name, agent.team)
        judge = self._judges.get(wanted)
        if judge is None:
            judge = self._judges[wanted] = self._make(wanted)
        return judge
