"""Whether an exchange may begin: kill switch, breakers, loops, budgets, in this order.

The relay asks :meth:`Admission.admit` with the run that it identified. It gets :class:`Admitted`, and after
the exchange hands it to :meth:`Admission.settle` (the model was asked) or :meth:`Admission.abandon` (it was
not, or said nothing); or :class:`Denied`, and answers with it at once. Operators use :meth:`kill`,
:meth:`release` and :meth:`circuit`; other detectors :meth:`trip`.

A scope is ``all``, ``agent:NAME`` or ``run:ID``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from policies.model import BudgetFacts
from proxy.breakers import breaker, loops, words
from proxy.breakers.breaker import Answer, Circuit, Evidence, State
from proxy.breakers.budgets import Budget, Estimate, Exhausted, Lease, budgets_for, reserve
from proxy.breakers.store import Store
from proxy.breakers.words import Alert, Severity
from proxy.runs import Sighting
from serving.settings import AgentSettings, BreakerSettings
from serving.wire.vocabulary import Usage

ALL = "all"
KEPT_SECONDS = 86_400.0
"""How much longer than it is open a tripped or released circuit is remembered."""

_NO_SETTINGS = AgentSettings()

Code = Literal["run_killed", "loop_detected", "budget_exhausted", "breaker_open"]


def agent_scope(agent: str) -> str:
    return f"agent:{agent}"


def run_scope(run: str) -> str:
    return f"run:{run}"


class Admitted(msgspec.Struct, frozen=True):
    """The exchange may begin, after ``delay_seconds``. ``probes``: scopes whose breaker watches it."""

    lease: Lease
    delay_seconds: float = 0.0
    alerts: tuple[Alert, ...] = ()
    probes: tuple[str, ...] = ()


class Denied(msgspec.Struct, frozen=True):
    """The exchange is refused: ``status`` 403 (killed) or 429, the stable ``code``, a ``message`` for the
    agent, ``retry_after`` in whole seconds (None with 403), the ``rule`` for the record."""

    status: Literal[403, 429]
    code: Code
    message: str
    rule: str
    retry_after: int | None = None
    alerts: tuple[Alert, ...] = ()


class Admission:
    """One for all agents. ``agents`` are the settings' own; an agent without settings has no own budgets."""

    def __init__(
        self,
        settings: BreakerSettings,
        agents: Mapping[str, AgentSettings],
        store: Store,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._agents = agents
        self._store = store
        self._clock = clock

    async def admit(self, agent: str, sighting: Sighting, estimate: Estimate) -> Admitted | Denied:
        """Lets the exchange begin, or says why not."""
        run = sighting.run
        scopes = (ALL, agent_scope(agent), run_scope(run.id))
        values = await self._store.read([circuit_key(scope) for scope in scopes])
        if not any(values) and not sighting.loop.counts:  # as nearly always: nothing was ever tripped or repeated
            admitted = await self._lease(agent, sighting, estimate, ())
            if isinstance(admitted, Admitted):
                run.tripped = None
            return admitted
        circuits = dict(zip(scopes, map(breaker.decode, values), strict=True))
        killed = next((scope for scope in scopes if circuits[scope].state is State.KILLED), None)
        if killed is not None:
            run.tripped = "killed"
            rule = f"breakers.killed.{killed.partition(':')[0]}"
            return Denied(403, "run_killed", words.killed_refusal(killed), rule)
        probes: list[str] = []
        for scope in scopes:
            if circuits[scope].state is State.CLOSED:
                continue
            circuits[scope], answer = await self._ask(scope)
            if answer is Answer.PROBE:
                probes.append(scope)
            elif answer is Answer.REFUSE:
                await self._come_to_nothing(probes)
                return self._held(scope, circuits[scope], run.id)
        graded = await self._grade(sighting, circuits[run_scope(run.id)])
        if isinstance(graded, Denied):
            await self._come_to_nothing([scope for scope in probes if scope != run_scope(run.id)])
            return graded
        leased = await self._lease(agent, sighting, estimate, graded.alerts)
        if isinstance(leased, Denied):
            await self._come_to_nothing(probes)
            return leased
        run.tripped = None
        return Admitted(leased.lease, graded.delay_seconds, graded.alerts, tuple(probes))

    async def _lease(
        self, agent: str, sighting: Sighting, estimate: Estimate, alerts: tuple[Alert, ...]
    ) -> Admitted | Denied:
        lease = await reserve(self._store, self._budgets(agent, sighting.run.id), estimate)
        if isinstance(lease, Exhausted):
            return await self._exhausted(sighting, lease, alerts)
        return Admitted(lease)

    async def settle(self, admitted: Admitted, used: Usage) -> None:
        """The exchange is over: books what it used (aborted and withheld parts too); its probes passed."""
        await admitted.lease.settle(used)
        for scope in admitted.probes:
            held = await self.circuit(scope)
            if (await self._change(scope, breaker.passed)).state is State.CLOSED:
                await self._over(held.cause, scope)

    async def abandon(self, admitted: Admitted) -> None:
        """The model made nothing for this exchange: gives the lease back; its probes showed nothing."""
        await admitted.lease.release()
        await self._come_to_nothing(admitted.probes)

    async def circuit(self, scope: str) -> Circuit:
        """The state of a scope's breaker, with reason, evidence and who brought it there."""
        (value,) = await self._store.read([circuit_key(scope)])
        return breaker.decode(value)

    async def kill(self, scope: str, *, by: str, reason: str) -> Alert:
        """Stops a scope until somebody releases it. ``by`` and ``reason`` are an operator's."""
        circuit = await self._change(scope, lambda old: breaker.kill(old, self._clock(), reason=reason, by=by))
        return words.circuit_alert(scope, circuit, "high")

    async def release(self, scope: str, *, by: str, reason: str) -> Alert | None:
        """Lets a killed or tripped scope go on; None if nothing held it."""
        held = await self.circuit(scope)
        if held.state is State.CLOSED:
            return None
        circuit = await self._change(scope, lambda old: breaker.release(old, self._clock(), reason=reason, by=by))
        await self._over(held.cause, scope)
        return words.circuit_alert(scope, circuit, "low")

    async def trip(
        self, scope: str, *, cause: str, reason: str, by: str, evidence: Evidence, severity: Severity = "high"
    ) -> Alert | None:
        """Opens a scope's breaker for ``open_seconds``; the alert if this cause is new there."""
        circuit = await self._trip(scope, cause, reason, by, evidence)
        if circuit.state is not State.OPEN or not await self._first(cause, scope):
            return None
        return words.circuit_alert(scope, circuit, severity)

    async def budgets(self, agent: str, run: str) -> list[BudgetFacts]:
        """What policies see: each budget that binds, with what is used and held now."""
        binding = self._budgets(agent, run)
        used = await self._store.used([budget.charge(0.0) for budget in binding])
        return [
            BudgetFacts(scope=budget.scope, unit=budget.unit, limit=budget.limit, used=amount)
            for budget, amount in zip(binding, used, strict=True)
        ]

    def _budgets(self, agent: str, run: str) -> tuple[Budget, ...]:
        return budgets_for(agent, run, self._settings, self._agents.get(agent) or _NO_SETTINGS)

    async def _grade(self, sighting: Sighting, circuit: Circuit) -> Admitted | Denied:
        """What the loop detector asks for. The lease of what it admits is empty yet."""
        run, now = sighting.run, self._clock()
        repeats = loops.unforgiven(sighting.loop, dict(circuit.forgiven))
        grade = loops.grade(repeats, self._settings)
        admitted = Admitted(Lease(self._store, (), None))
        if grade is loops.Grade.NONE:
            return admitted
        evidence = _evidence(sighting, repeats)
        if grade is loops.Grade.ALERT:
            alert = words.loop_alert("loop_suspected", run, evidence, now)
            new = await self._first(f"loop_suspected:{evidence['repeated']}", run_scope(run.id))
            return msgspec.structs.replace(
                admitted, delay_seconds=self._settings.slow_seconds, alerts=(alert,) if new else ()
            )
        reason = "The same tool call gave the same result with nothing new in between."
        await self._trip(run_scope(run.id), "loop_detected", reason, "loop detector", evidence, sighting.loop.counts)
        run.tripped = "loop_detected"
        alert = words.loop_alert("loop_detected", run, evidence, now)
        new = await self._first("loop_detected", run_scope(run.id))
        return Denied(
            429,
            "loop_detected",
            words.loop_refusal(run.id),
            "breakers.loop",
            _whole(self._settings.open_seconds),
            (alert,) if new else (),
        )

    def _held(self, scope: str, circuit: Circuit, run: str) -> Denied:
        code: Code
        if circuit.state is State.KILLED:  # since the circuits were read
            rule = f"breakers.killed.{scope.partition(':')[0]}"
            return Denied(403, "run_killed", words.killed_refusal(scope), rule)
        if circuit.cause == "loop_detected":
            code, rule, message = "loop_detected", "breakers.loop", words.loop_refusal(run)
        else:
            code, message = "breaker_open", words.open_refusal(scope)
            rule = f"breakers.open.{scope.partition(':')[0]}"
        return Denied(429, code, message, rule, _whole(circuit.until - self._clock()))

    async def _exhausted(self, sighting: Sighting, short: Exhausted, alerts: tuple[Alert, ...]) -> Denied:
        run = sighting.run
        whose = run.id if short.scope == "run" else run.agent if short.scope == "agent" else ""
        if await self._first(f"budget:{short.unit}:{short.why}", f"{short.scope}:{whose}"):
            alerts = (*alerts, words.budget_alert(short, run, self._clock()))
        wait = short.retry_after if short.retry_after is not None else self._settings.open_seconds
        rule = f"breakers.budget.{short.scope}.{short.unit}"
        return Denied(429, "budget_exhausted", words.budget_refusal(short), rule, _whole(wait), alerts)

    async def _first(self, cause: str, scope: str) -> bool:
        """Whether this cause is alerted for the first time within a window, or since it was over."""
        return await self._store.swap(_alert_key(cause, scope), None, b"1", self._settings.window_seconds)

    async def _over(self, cause: str, scope: str) -> None:
        """If this cause comes again, it is a new one."""
        await self._store.swap(_alert_key(cause, scope), b"1", None)

    async def _ask(self, scope: str) -> tuple[Circuit, Answer]:
        answers: list[Answer] = []

        def asked(circuit: Circuit) -> Circuit:
            circuit, answer = breaker.ask(circuit, self._clock(), self._settings.open_seconds)
            answers.append(answer)
            return circuit

        circuit = await self._change(scope, asked)
        return circuit, answers[-1]

    async def _trip(
        self, scope: str, cause: str, reason: str, by: str, evidence: Evidence, proof: breaker.Proof = ()
    ) -> Circuit:
        return await self._change(
            scope,
            lambda old: breaker.trip(
                old,
                self._clock(),
                self._settings.open_seconds,
                cause=cause,
                reason=reason,
                by=by,
                evidence=evidence,
                proof=proof,
            ),
        )

    async def _come_to_nothing(self, probes: tuple[str, ...] | list[str]) -> None:
        for scope in probes:
            await self._change(scope, lambda old: breaker.came_to_nothing(old, self._clock()))

    async def _change(self, scope: str, change: Callable[[Circuit], Circuit]) -> Circuit:
        """Changes a circuit where it is kept; if another changed it meanwhile, reads it and tries again."""
        while True:
            (value,) = await self._store.read([circuit_key(scope)])
            old = breaker.decode(value)
            new = change(old)
            if new == old:
                return old
            kept = None if new.state is State.KILLED else self._settings.open_seconds + KEPT_SECONDS
            if await self._store.swap(circuit_key(scope), value, breaker.encode(new), kept):
                return new


def circuit_keys(agent: str, run: str) -> list[str]:
    """Where the circuits are kept that an exchange of this run asks first."""
    return [circuit_key(scope) for scope in (ALL, agent_scope(agent), run_scope(run))]


def circuit_key(scope: str) -> str:
    return f"circuit:{scope}"


def _alert_key(cause: str, scope: str) -> str:
    return f"alert:{cause}:{scope}"


def _whole(seconds: float) -> int:
    return max(math.ceil(seconds), 1)


def _evidence(sighting: Sighting, repeats: int) -> Evidence:
    """Counts, a keyed digest of the call with its result, and the tool's name if it is in sight."""
    pair = max(sighting.loop.counts, key=lambda counted: counted[1])[0]
    name = next((step.name for step in sighting.steps if step.pair == pair), None)
    evidence: Evidence = {"repeats": repeats, "step": sighting.run.step, "repeated": pair.hex()[:16]}
    if name is not None:
        evidence["tool"] = words.plain_name(name)
    return evidence
