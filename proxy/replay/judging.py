"""Asks policies about a stored exchange as the live judge asks about one that runs, stage by stage.

The inputs come from ``policies.inputs``, the texts are looked through as those of a whole answer are
(``proxy.whole``), and what stops an exchange stops it here: nothing is asked about what would then not have come. Two
things are not had again: how a stream happened to be cut into pieces, and what the agent would have done next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from policies.answer_redaction import mask_arguments, masks_of_response, masks_of_text
from policies.facts.seen import NO_SETTINGS, ToolTable
from policies.inputs import HISTORY_FIELDS, OF_THE_MOMENT, call_facts, decision_input, object_of, text_facts
from policies.model import (
    Action,
    BudgetFacts,
    CallFacts,
    CheckFact,
    Decision,
    DecisionInput,
    ResponseFacts,
    Signal,
    Stage,
)
from policies.redaction import CHANGES, CannotRedact, changes_of
from policies.service import PolicySet
from policies.signals import signals_of_hits
from policies.text_rules import STAGE_OF, names_field
from proxy.gated_text import Found, TextRule
from proxy.replay.asking import Asking, Histories
from proxy.replay.missing import Missing, Needs, is_recorded
from proxy.replay.stored import UNFINISHED, UNREAD, Stored, StoredCall, StoredChoice, Unknown
from proxy.whole import texts_of
from serving.wire.dialect import AnswerChoice
from serving.wire.masking import Surface
from serving.wire.strict import DEPTH
from serving.wire.vocabulary import ToolCall
from tracing.records import Decided

MALFORMED = "interlock/malformed_arguments"
_MOMENT_OF_CALL = {f"call.{name}": UNREAD for name in OF_THE_MOMENT}


class Said(msgspec.Struct, frozen=True):
    """What policies say at one place of an exchange (``request``, ``call 0.1``, ``text of choice 0``). ``stopped_by``:
    the rule that stops it; ``as_then``: policies that could not be asked, and whose answer is the one on record."""

    place: str
    stage: Stage
    question: DecisionInput | None = None
    decision: Decision | None = None
    stopped_by: str | None = None
    missing: tuple[Missing, ...] = ()
    about: ToolCall | None = None
    as_then: tuple[str, ...] = ()

    @property
    def recorded(self) -> bool:
        """At this stage nothing can be stopped any more."""
        return self.stage is Stage.RESPONSE and self.stopped_by is None


class Rejudge:
    """One policy set that is asked again. ``as_then``: about texts it is
    asked what was asked then, as far as each had come by that time; else about all that was found in them. ``tools`` is
    what the settings say of tools; ``histories`` may be shared by several sets of the same settings."""

    def __init__(
        self,
        policies: PolicySet,
        *,
        json_depth: int = DEPTH,
        as_then: bool = False,
        tools: ToolTable = NO_SETTINGS,
        histories: Histories | None = None,
    ) -> None:
        self.policies = policies
        self._histories = histories if histories is not None else Histories(tools)
        self._reads_history = any(policies.reads_field(Stage.TOOL_CALL, field) for field in HISTORY_FIELDS)
        self._compares = policies.reads_field(Stage.TOOL_CALL, "call.faults")
        self._shows_orders = frozenset(stage for stage in Stage if policies.reads_field(stage, "request.orders"))
        self._as_then = as_then
        self.questions = 0
        self._depth = json_depth
        self._holds = policies.enforced(Stage.TOOL_CALL)
        rules = {surface: policies.text_rule(stage) for surface, stage in STAGE_OF.items()}
        self._texts: dict[Surface, TextRule] = {s: rule for s, rule in rules.items() if rule is not None and rule.holds}
        self._beside = {s: rule for s, rule in rules.items() if rule is not None and not rule.holds}
        self._needs = Needs(policies)

    async def exchange(self, x: Stored) -> list[Said]:
        """Everything that is asked about ``x``, in order, up to what stops it."""
        if not x.judged:
            return []
        asking = Asking(x, self._histories)
        said: list[Said] = []
        if not x.fetched and self.policies.in_force(Stage.REQUEST):
            said.append(await self._request(asking))
            if said[-1].stopped_by is not None:
                return said
        if await self._answer(asking, said):
            return said
        for choice in x.choices:
            for surface in self._beside:
                said += await self._text_beside(asking, choice, surface)
        if self.policies.in_force(Stage.RESPONSE) and x.choices:
            said += [await self._response(asking, choice) for choice in x.choices]
        return said

    async def _request(self, asking: Asking) -> Said:
        """What is masked or withheld of a request does not stop it; what cannot be is refused."""
        x = asking.x
        texts = [message.text for message in x.news]
        then = asking.then(Stage.REQUEST, "request")
        signals, why = self.policies.message_signals(texts), x.unknown.get("request.messages")
        lost: dict[str, str] = {}
        if why is not None and then is not None and "signals" in then.moment:
            signals = [Signal.model_validate(one) for one in then.moment["signals"]]
        elif why is not None:
            signals, lost = [], {"signals": why}
        said = await self._ask(asking, "request", Stage.REQUEST, signals=signals, unknown=lost, then=then)
        if said.decision is None or said.decision.action not in CHANGES:
            return said
        try:
            changes_of(said.decision, texts)
        except CannotRedact:
            return said
        return msgspec.structs.replace(said, stopped_by=None)

    async def _answer(self, asking: Asking, said: list[Said]) -> bool:
        """Texts and calls; whether the answer is cut."""
        x = asking.x
        if not x.ended and (self._texts or self.policies.in_force(Stage.TOOL_CALL)):
            missing = self._needs.of_answer(UNFINISHED)
            if missing:
                said.append(Said("answer", Stage.TOOL_CALL, missing=missing))
        for choice in x.choices:
            async for one in self._texts_of(asking, choice):
                said.append(one)
                if one.stopped_by is not None:
                    return True
        for call in x.calls:
            if call.in_text is not None:
                continue
            one = await self._call(asking, call, f"call {call.call.choice}.{call.call.index}")
            said.append(one)
            if one.decision is not None and one.decision.action == "terminate":
                return True
        return False

    async def _texts_of(self, asking: Asking, choice: StoredChoice) -> Any:
        whole = AnswerChoice(choice.number, choice.number, choice.text, choice.reasoning, (), choice.finish)
        known: set[Surface] = set()
        written = 0
        for surface in self._texts:
            if self._as_then or _part_of(surface) in choice.unknown:
                known.add(surface)
                for one in await self._text_then(asking, choice, surface):
                    yield one
        for found in texts_of(asking.x.request.tools, self._texts, whole, hold=self._holds):
            for shadow in found.calls:
                call = ToolCall(choice.number, written, None, shadow.name, shadow.arguments, shadow.complete)
                place = f"call {written} in the {found.surface} of choice {choice.number}"
                written += 1
                why = choice.unknown.get(_part_of(found.surface))
                lost = dict.fromkeys(("call.arguments", "call.raw"), why) if why and _masked(call.arguments) else {}
                yield await self._call(asking, StoredCall(call, unknown=lost), place)
            if (found.hits or found.ended) and found.surface in self._texts and found.surface not in known:
                yield await self._text(asking, choice, found)

    async def _text(self, asking: Asking, choice: StoredChoice, found: Found) -> Said:
        stage = STAGE_OF[found.surface]
        rule = self.policies.text_rule(stage)
        said = (choice.text if found.surface == "text" else choice.reasoning).encode("utf-8", "surrogatepass")
        answered = await self._ask(
            asking,
            f"{found.surface} of choice {choice.number}",
            stage,
            surface=text_facts(
                "output" if stage is Stage.OUTPUT else "reasoning",
                choice.number,
                said if rule is not None and rule.text else None,
                found.size,
                complete=found.ended,
            ),
            signals=signals_of_hits(found.hits),
        )
        waits = rule is not None and (rule.hold != 0 or not asking.x.request.stream)
        return _as_masked(answered, said) if waits else answered

    async def _text_then(self, asking: Asking, choice: StoredChoice, surface: Surface) -> list[Said]:
        """A text as it was asked about then, by what is on record of that."""
        stage, place = STAGE_OF[surface], f"{surface} of choice {choice.number}"
        why = choice.unknown.get(_part_of(surface))
        rule = self.policies.text_rule(stage)
        reads = rule is not None and rule.text and why is None
        text = (choice.text if surface == "text" else choice.reasoning).encode("utf-8", "surrogatepass")
        said: list[Said] = []
        while (then := asking.then(stage, place)) is not None:
            facts = then.moment.get("surface") or {}
            whole = text_facts(
                "output" if stage is Stage.OUTPUT else "reasoning",
                choice.number,
                text if reads else None,
                facts.get("bytes", 0),
                complete=bool(facts.get("complete")),
            )
            signals = [Signal.model_validate(one) for one in then.moment.get("signals", ())]
            lost = {} if why is None else {"surface.text": why} if signals else {"surface.text": why, "signals": why}
            one = await self._ask(asking, place, stage, surface=whole, signals=signals, unknown=lost, then=then)
            waits = rule is not None and (rule.hold != 0 or not asking.x.request.stream)
            was = why is not None and any(d.masked and d.surface == place for d in asking.x.decided)
            said.append(_as_masked(one, None if was else text) if waits else one)
        if not said and why is not None:
            lost = {"surface": why, "signals": why}
            said.append(await self._ask(asking, place, stage, surface=None, unknown=lost))
        return said

    async def _text_beside(self, asking: Asking, choice: StoredChoice, surface: Surface) -> list[Said]:
        """A text about which policies only record."""
        rule, part = self._beside[surface], _part_of(surface)
        said = choice.text if surface == "text" else choice.reasoning
        if self._as_then or part in choice.unknown:
            return await self._text_then(asking, choice, surface)
        if not said:
            return []
        scanner = rule.scanner() if rule.scanner is not None else None
        hits = (*scanner.feed(said), *scanner.end()) if scanner is not None else ()
        if not hits and not rule.at_end:
            return []
        size = len(said.encode("utf-8", "surrogatepass"))
        return [await self._text(asking, choice, Found(surface, hits, (), True, size, size))]

    async def _call(self, asking: Asking, stored: StoredCall, place: str) -> Said:
        call, unknown = stored.call, dict(stored.unknown)
        readable = "call.arguments" not in unknown
        arguments = object_of(call.arguments, self._depth) if readable else None
        if (readable and arguments is None and call.complete) or stored.outcome in ("malformed", "held_bytes"):
            rule = stored.rule if stored.outcome in ("malformed", "held_bytes") else MALFORMED
            return Said(place, Stage.TOOL_CALL, stopped_by=rule if self._holds else None, about=call)
        if not self.policies.in_force(Stage.TOOL_CALL):
            return Said(place, Stage.TOOL_CALL, about=call)
        noted = asking.noted(place) if self._reads_history and readable else None
        known = noted
        if noted is None and self._reads_history:
            known = asking.background.facts(call.name, arguments, call.arguments, asking.x.said(call.choice))
        facts = call_facts(call, arguments, asking.x.request.tools, facts=known, compared=self._compares)
        if "request.tools" in asking.x.unknown and not facts.offered:
            unknown["call.offered"] = asking.x.unknown["request.tools"]
        then = asking.then(Stage.TOOL_CALL, place)
        unknown |= _MOMENT_OF_CALL
        lost = not asking.x.said_is_known(call.choice) or any(name in asking.x.unknown for name in HISTORY_FIELDS)
        if noted is not None or not lost:
            unknown.pop("call.mismatch", None)
        if then is not None and (moment := then.moment.get("call")) is not None:
            facts, unknown = _with_moment(facts, moment), {n: w for n, w in unknown.items() if n[5:] not in moment}
        if readable:
            signals = self.policies.signals(facts)
        elif then is not None and "signals" in then.moment:
            signals = [Signal.model_validate(one) for one in then.moment["signals"]]
        else:
            signals, unknown["signals"] = [], unknown["call.arguments"]
        approved = stored.outcome == "approved"
        said = await self._ask(
            asking,
            place,
            Stage.TOOL_CALL,
            call=facts,
            signals=signals,
            unknown=unknown,
            then=then,
            about=call,
            approved=approved,
        )
        if said.decision is None or said.decision.action not in CHANGES or stored.in_text is not None:
            return said
        try:
            if readable or stored.outcome != "masked":
                mask_arguments(said.decision, call.arguments)
        except CannotRedact:
            return said
        return msgspec.structs.replace(said, stopped_by=None)

    async def _response(self, asking: Asking, choice: StoredChoice) -> Said:
        place = f"choice {choice.number}"
        then = asking.then(Stage.RESPONSE, place)
        more = (then.moment.get("calls") if then is not None else None) or {}
        facts = ResponseFacts(
            choice=choice.number,
            text=choice.text,
            reasoning=choice.reasoning,
            finish_reason=choice.finish,
            calls=[
                _with_moment(
                    call_facts(call, object_of(call.arguments, self._depth), asking.x.request.tools),
                    more.get(str(call.index), {}),
                )
                for call in choice.calls
            ],
        )
        parts = {"content": "response.text", "reasoning": "response.reasoning", "tool_calls": "response.calls"}
        unknown = {parts[name]: why for name, why in choice.unknown.items() if name in parts}
        said = await self._ask(asking, place, Stage.RESPONSE, response=facts, unknown=unknown, then=then)
        decision = said.decision
        if asking.x.request.stream or decision is None or not (decision.refuses or decision.action in CHANGES):
            return said
        stopped = msgspec.structs.replace(said, stopped_by=decision.rule)
        if decision.refuses:
            return stopped
        try:
            texts: dict[Surface, bytes] = {"text": _utf8(choice.text), "reasoning": _utf8(choice.reasoning)}
            masks_of_response(decision, texts)
        except CannotRedact:
            return stopped
        return said

    async def _ask(
        self,
        asking: Asking,
        place: str,
        stage: Stage,
        *,
        unknown: Unknown | None = None,
        then: Decided | None = None,
        about: ToolCall | None = None,
        approved: bool = False,
        **surface: Any,
    ) -> Said:
        then = then if then is not None else asking.then(stage, place)
        moment = then.moment if then is not None else {}
        lost = {
            name: why for name, why in {**asking.x.unknown, **(unknown or {})}.items() if not is_recorded(name, moment)
        }
        checks = [CheckFact.model_validate(one) for one in moment.get("checks", ())]
        budgets = [BudgetFacts.model_validate(one) for one in moment.get("budgets", ())]
        orders = asking.orders(stage) if stage in self._shows_orders else ()
        question = decision_input(
            asking.x,
            stage,
            self.policies.shown,
            run=lambda: asking.run(moment),
            checks=checks,
            budgets=budgets,
            orders=orders,
            table=self._histories.tools,
            **surface,
        )
        missing = self._needs.of(stage, lost)
        without = frozenset(one.policy for one in missing)
        decision = await self.policies.decide(question, asking.x.opened_ns, without, orders)
        self.questions += 1
        then_too = self._alike(asking, stage, without) if missing else frozenset[str]()
        known = asking.answers(stage, place, then, self.policies.digest, then_too) if then_too else {}
        if known:
            decision = self.policies.completed(decision, known, question, asking.x.opened_ns)
            missing = tuple([one for one in missing if one.policy not in known])
        asking.found(decision)
        stopped = stage is not Stage.RESPONSE and (decision.refuses or decision.action in CHANGES)
        if approved and decision.action is Action.APPROVE:
            stopped = False  # somebody said yes then
        return Said(place, stage, question, decision, decision.rule if stopped else None, missing, about, tuple(known))

    def _alike(self, asking: Asking, stage: Stage, wanted: frozenset[str]) -> frozenset[str]:
        """Those of ``wanted`` that would be shown now what they were shown then: what is found in a history is another
        thing if other code or settings look."""
        if asking.looked_alike:
            return wanted
        asked = self.policies.asked(stage)
        return frozenset(
            [name for name in wanted if not any(names_field(asked[name], field) for field in HISTORY_FIELDS)]
        )


def _as_masked(said: Said, text: bytes | None) -> Said:
    """What is masked of a text that waits does not stop the answer; what cannot be does. None: it was masked then, and
    is not on record as it was."""
    if said.decision is None or said.decision.action not in CHANGES:
        return said
    try:
        if text is not None:
            masks_of_text(said.decision, text)
    except CannotRedact:
        return said
    return msgspec.structs.replace(said, stopped_by=None)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _part_of(surface: Surface) -> str:
    return "content" if surface == "text" else "reasoning"


def _masked(text: str) -> bool:
    return "[redacted" in text or text.endswith("…")


def _with_moment(facts: CallFacts, moment: Mapping[str, Any]) -> CallFacts:
    """``facts`` with what was recorded of that moment; raises ``ValidationError`` if it is none."""
    said = {name: value for name, value in moment.items() if value is not None}
    if not said:
        return facts
    read = CallFacts.model_validate({"name": facts.name, **said})
    return facts.model_copy(update={name: getattr(read, name) for name in said})
