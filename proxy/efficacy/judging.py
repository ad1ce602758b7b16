"""Judges cases as live traffic is judged: the reader's request, the facts, the policies on the embedded engine."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence

import msgspec

from policies.bundle import Bundle, PolicyEntry
from policies.engines.embedded import EmbeddedEngine
from policies.facts.orders import GIVES_ORDERS
from policies.facts.provenance import Background
from policies.facts.seen import NO_SETTINGS, ToolTable, tools_of_results
from policies.inputs import call_facts, decision_input, object_of
from policies.model import CallFacts, Mode, OrderPassage, RunFacts, Stage
from policies.service import PolicySet
from proxy.efficacy.cases import Case
from proxy.efficacy.gaps import gap_of
from serving.wire.dialect import Api
from serving.wire.request import ChatRequest, SentMessage
from serving.wire.strict import DEPTH
from serving.wire.vocabulary import ToolCall

TAG = "OWASP-LLM01:2025"
"""The tag of policies about injected orders."""


FACT = "request.orders"
"""What stands in place of a rule where no policy that is asked judges requests: the fact alone."""

_SECONDS = 5.0


class Verdict(msgspec.Struct, frozen=True):
    """``rules``: the findings that stop it, ``policy/id``; ``error``: what a policy could not answer. ``orders``: the
    passages that give orders, their words with their kinds. ``gap``: how far the facts came with it, for those who look
    into a miss. ``seconds``: facts and decision together."""

    case: Case
    rules: tuple[str, ...]
    error: str | None
    orders: tuple[tuple[str, tuple[str, ...]], ...]
    named: str
    seconds: float
    gap: str = ""

    @property
    def stopped(self) -> bool:
        return bool(self.rules) or self.error is not None

    @property
    def right(self) -> bool:
        return self.stopped == self.case.bad


class _Asked(msgspec.Struct):
    """A case as ``policies.inputs.Asked``: all its messages are new."""

    id: str
    request: ChatRequest
    agent: str = "anonymous"
    owner: str | None = None
    team: str | None = None
    api: Api = "chat"
    changed_tools: frozenset[str] = frozenset()
    opened_ns: int = 0

    @property
    def news(self) -> Sequence[SentMessage]:
        return self.request.messages

    @property
    def news_tools(self) -> Sequence[str | None]:
        return tools_of_results(self.request.messages)

    @property
    def message_count(self) -> int:
        return len(self.request.messages)


def injection_policies(bundle: Bundle) -> list[PolicyEntry]:
    """The policies of a bundle that are about injected orders, by their tags."""
    return [entry for entry in bundle.policies if TAG in entry.tags]


class Scorer:
    """``policies``: those that are asked, all enforced. Use as an async context."""

    def __init__(self, bundle: Bundle, policies: Collection[str], table: ToolTable = NO_SETTINGS) -> None:
        unknown = sorted(set(policies) - {entry.name for entry in bundle.policies})
        if unknown:
            raise ValueError(f"the bundle has no policy {', '.join(unknown)}")
        self._table = table
        self._engine = EmbeddedEngine(bundle, _SECONDS)
        self._policies = PolicySet(bundle, self._engine, dict.fromkeys(policies, Mode.ENFORCE))

    async def __aenter__(self) -> Scorer:
        await self._policies.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._policies.close()

    async def verdict(self, case: Case) -> Verdict:
        began = time.perf_counter()
        request = case.request
        background = Background(request.messages, request.tools, self._table)
        if case.call is None:
            orders = [order for order in background.orders if order.score >= GIVES_ORDERS]
            if self._policies.in_force(Stage.REQUEST):
                rules, error = await self._decide(case, Stage.REQUEST, orders)
            else:
                rules, error = (FACT,) if orders else (), None
            named, gap = "", gap_of(background.orders, None)
        else:
            raw = json.dumps(case.call.arguments)
            call = ToolCall(0, 0, None, case.call.name, raw)
            arguments = object_of(raw, DEPTH)
            known = background.facts(call.name, arguments, raw)
            facts = call_facts(call, arguments, request.tools, facts=known)
            rules, error = await self._decide(case, Stage.TOOL_CALL, background.orders, facts)
            gap = gap_of(background.orders, known.named)
            named = ", ".join(name for name in ("by_user", "by_plan", "delegated") if getattr(known.named, name))
            ordered = ", ".join(f"{one.order} ({one.sure:.2f})" for one in known.named.by_orders)
            named += f"{', ' if named else ''}by_orders {ordered or 'none'}"
        seconds = time.perf_counter() - began
        return Verdict(case, rules, error, background.words(), named, seconds, gap)

    async def _decide(
        self, case: Case, stage: Stage, orders: Sequence[OrderPassage], call: CallFacts | None = None
    ) -> tuple[tuple[str, ...], str | None]:
        question = decision_input(
            _Asked(case.id, case.request),
            stage,
            self._policies.shown,
            run=lambda: RunFacts(id="scored"),
            call=call,
            signals=self._policies.signals(call) if call is not None else None,
            orders=orders,
            table=self._table,
        )
        decision = await self._policies.decide(question)
        stopping = [found for found in decision.findings if found.finding.action not in ("allow", "flag")]
        error = f"{decision.errors[0].policy}: {decision.errors[0].message}" if decision.errors else None
        return tuple(f"{found.policy}/{found.finding.id}" for found in stopping), error
