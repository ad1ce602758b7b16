"""What operators see and do, joined from the parts that know it (``proxy.admin.AdminState``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxy.admin import Action, Decided, NotHeld, Scope, Unknown
from proxy.approvals import AlreadyDecided, ApprovalDesk, UnknownApproval
from proxy.breakers.admission import ALL, Admission, agent_scope, run_scope
from proxy.breakers.breaker import State
from proxy.recorder import Recorder
from proxy.run import Run
from proxy.runs import RunBook
from serving.patterns import shipped_redactor
from serving.settings import Settings
from tracing.alerts import Alert, AlertBook
from tracing.records import Alerted


class Operators:
    """``cut(agent, run)`` ends what streams now of a killed scope (None: any); ``not_ready`` says why no new exchange
    is taken, None if they are; ``render`` gives the metrics in Prometheus' text form."""

    def __init__(
        self,
        settings: Settings,
        *,
        runs: RunBook,
        admission: Admission,
        recorder: Recorder,
        not_ready: Callable[[], str | None],
        render: Callable[[], bytes],
        cut: Callable[[str | None, str | None], None],
        approvals: ApprovalDesk,
        alerts: AlertBook,
    ) -> None:
        self._settings = settings
        self._runs = runs
        self._admission = admission
        self._recorder = recorder
        self.not_ready = not_ready
        self.metrics = render
        self._cut = cut
        self._approvals = approvals
        self._alerts = alerts
        self._mask = shipped_redactor()

    async def runs(self, agent: str | None, limit: int) -> Sequence[Mapping[str, Any]]:
        newest = [run for run in reversed(list(self._runs)) if agent is None or run.agent == agent]
        return [self._summary(run) for run in newest[:limit]]

    async def run(self, run_id: str) -> Mapping[str, Any]:
        run = self._known(run_id)
        circuit = await self._admission.circuit(run_scope(run.id))
        return {
            **self._summary(run),
            "findings": list(run.findings),
            "breaker": {
                "state": circuit.state.value,
                "cause": circuit.cause,
                "reason": circuit.reason,
                "by": circuit.by,
                "evidence": {k: self._mask(v) if isinstance(v, str) else v for k, v in circuit.evidence.items()},
            },
            "budgets": [b.model_dump(mode="json") for b in await self._admission.budgets(run.agent, run.id)],
        }

    async def act(self, action: Action, scope: Scope, name: str, *, operator: str, reason: str) -> Mapping[str, Any]:
        agent, run = None, None
        if scope == "run":
            target, agent, run = run_scope(self._known(name).id), self._known(name).agent, name
        elif scope == "agent":
            if name not in self._settings.agents and not self._runs.knows(name):
                raise Unknown
            target, agent = agent_scope(name), name
        else:
            target = ALL
        if action == "kill":
            alert = await self._admission.kill(target, by=operator, reason=reason)
            if run is not None and (killed := self._runs.get(run)) is not None:
                killed.tripped = "killed"
            self._cut(agent, run)
        else:
            released = await self._admission.release(target, by=operator, reason=reason)
            if released is None:
                raise NotHeld
            alert = released
            if run is not None:
                self._known(run).tripped = None
        await self._recorder.commit(self._recorder.operated(operator, action, target, reason))
        self._recorder.alerted(alert)
        circuit = await self._admission.circuit(target)
        return {"scope": target, "state": State(circuit.state).value, "reason": reason, "operator": operator}

    async def approvals(self) -> Sequence[Mapping[str, Any]]:
        return self._approvals.pending()

    async def settle(self, name: str, *, approve: bool, operator: str, reason: str) -> Mapping[str, Any]:
        try:
            return await self._approvals.settle(name, approve=approve, operator=operator, reason=reason)
        except UnknownApproval:
            raise Unknown from None
        except AlreadyDecided as first:
            raise Decided(first.operator, first.action) from None

    async def alerts(self) -> Sequence[Mapping[str, Any]]:
        return [_shown(record) for record in self._alerts.firing()]

    async def acknowledge(self, name: str, *, operator: str, reason: str) -> Mapping[str, Any]:
        changed = self._alerts.acknowledge(name)
        firing = next((record for record in self._alerts.firing() if record.fingerprint == name), None)
        if firing is None:
            raise Unknown
        if changed is not None:
            self._recorder.acknowledged(changed)
        await self._recorder.commit(self._recorder.operated(operator, "acknowledge", name, reason))
        return _shown(firing)

    def _known(self, run_id: str) -> Run:
        run = self._runs.get(run_id)
        if run is None:
            raise Unknown
        return run

    def _summary(self, run: Run) -> dict[str, Any]:
        """Nothing of the content: counts, ids, why it is held, and what the client calls it (never a secret)."""
        return {
            "id": run.id,
            "agent": run.agent,
            "steps": run.step + 1,
            "tokens": run.tokens,
            "cost_usd": run.cost,
            "tool_calls": run.tool_calls,
            "tripped": run.tripped,
            "names": [self._mask(name) for name in run.names],
        }


def _shown(record: Alerted) -> dict[str, Any]:
    """An alert as a webhook gets it, but for who sends it."""
    return Alert.of(record, "").model_dump(mode="json", exclude={"instance"})
