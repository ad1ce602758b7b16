"""What is asked about one exchange, stage by stage, and what follows from the decisions for the gate.

A held call is let go, or refused, only after its outcome is on disk. If that cannot be had, the call is
refused: an action that nobody could account for does not happen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from policies.answer_redaction import splices
from policies.facts.provenance import Facts
from policies.facts.seen import tools_of_results
from policies.facts.sinks import sink_values
from policies.facts.tool_digests import digests
from policies.inputs import call_facts, object_of, text_facts
from policies.model import (
    Action,
    CallFacts,
    Decision,
    Mode,
    ResponseFacts,
    Signal,
    Stage,
)
from policies.redaction import CHANGES, CannotRedact, changes_of
from policies.service import PolicySet
from policies.signals import signals_of_hits
from policies.text_rules import STAGE_OF
from proxy.approvals import Approvals
from proxy.backgrounds import CALL_FACTS, ORDERS, Backgrounds, Histories
from proxy.call_logprobs import call_logprobs
from proxy.coverage import Coverage
from proxy.deciding import Deciding, FactsBeside
from proxy.exchange import Exchange, Outcome
from proxy.gated_choice import Answer, Question, TextQuestion
from proxy.gated_text import Found, TextRule
from proxy.masked_answers import ResponseMasking, TextMasking, masked_call
from proxy.recorder import NOT_TAKEN, Recorder
from proxy.refusals import Refuse
from proxy.refused_words import CALL_UNRECORDED, MALFORMED, RENAMED, STOPPED_UNRECORDED, TOO_LARGE
from serving.settings import PolicySettings
from serving.wire.masking import Surface
from serving.wire.message_texts import TextChange
from serving.wire.request import ChatRequest
from serving.wire.vocabulary import ToolCall
from tracing.journal import JournalError
from tracing.metrics import Metrics
from tracing.records import UNRECORDED

_log = logging.getLogger(__name__)

_LATER = (Stage.REASONING, Stage.TOOL_CALL, Stage.OUTPUT, Stage.RESPONSE)
_LARGE = 256 * 1024


class Judge:
    """``facts``: see :class:`proxy.deciding.Deciding`."""

    def __init__(
        self,
        policies: PolicySet,
        settings: PolicySettings,
        recorder: Recorder,
        metrics: Metrics,
        *,
        json_depth: int,
        facts: FactsBeside,
        histories: Histories | None = None,
        approvals: Approvals,
    ) -> None:
        self._policies = policies
        self._approvals = approvals
        self._recorder = recorder
        self._metrics = metrics
        self._backgrounds = Backgrounds(policies, histories)
        self._reads_tools = any(policies.reads_field(stage, "request.tools") for stage in Stage)
        self._reads_changes = policies.reads_field(Stage.TOOL_CALL, "call.changed")
        self._compares = policies.reads_field(Stage.TOOL_CALL, "call.faults") or policies.in_force(Stage.RESPONSE)
        self._reads_messages = any(policies.reads_field(stage, "request.messages") for stage in Stage)
        self._refusal = settings.refusal
        self._depth = json_depth
        self.closing = "content_filter" if settings.refusal == "content_filter" else "stop"
        self.holds_calls = policies.enforced(Stage.TOOL_CALL)
        rules = {surface: policies.text_rule(stage) for surface, stage in STAGE_OF.items()}
        self.texts: dict[Surface, TextRule] = {s: rule for s, rule in rules.items() if rule is not None and rule.holds}
        self._texts_beside = {s: rule for s, rule in rules.items() if rule is not None and not rule.holds}
        self._surfaces = self._enforced_surfaces()
        self._coverage = Coverage(policies, holds_calls=self.holds_calls)
        self._deciding = Deciding(policies, recorder, metrics, self._coverage, self._backgrounds, facts)
        self.wants_logprobs = policies.wants(Stage.TOOL_CALL, "call.logprobs")
        self._reads_logprobs = policies.reads_field(Stage.TOOL_CALL, "call.logprobs")
        self._forgets_messages = not any(policies.reads_field(stage, "request.messages") for stage in _LATER)
        self._forgets_tools = not (
            any(policies.reads_field(stage, "request.tools") for stage in _LATER)
            or policies.reads_field(Stage.TOOL_CALL, "call.faults")
        )

    def surfaces(self) -> frozenset[str]:
        """The surfaces that enforcing policies read (``serving.request_fields``)."""
        return self._surfaces

    def _enforced_surfaces(self) -> frozenset[str]:
        surfaces: set[str] = set()
        if self._policies.enforced(Stage.REQUEST):
            surfaces |= {"request", "tool_result"}
        if self.holds_calls:
            surfaces.add("tool_call")
        if any(self._policies.wants(Stage.TOOL_CALL, field) for field in (*CALL_FACTS, ORDERS)):
            surfaces.add("tool_result")
        return frozenset(surfaces | self.texts.keys())

    def tool_digests(self, request: ChatRequest) -> dict[str, str] | None:
        """What the offered tools are, if a policy in force may want to know whether they change."""
        return digests(request.tools) if (self._reads_tools or self._reads_changes) and request.tools else None

    # -- stages ------------------------------------------------------------------------------------

    async def request(self, x: Exchange) -> Mapping[int, TextChange]:
        """Stage ``request``: what is to become of its messages, by their index. Raises :class:`Refuse` if the request
        must not go on."""
        if self._reads_logprobs:
            x.seen.keep_tokens(frozenset(tool.name for tool in x.request.tools))
        if self._reads_messages:
            x.news_tools = tuple(tools_of_results(x.request.messages)[x.message_count - len(x.news) :])
        if not self._policies.in_force(Stage.REQUEST):
            return {}
        texts = [message.text for message in x.news]
        decision = await self._deciding.decide(x, Stage.REQUEST, "request", signals=await self._signals_of(texts))
        if x.decided_seq == NOT_TAKEN:
            raise Refuse("record_unavailable", "What was decided about it could not be put on record.", retry_after=5)
        problem = ""
        changes: Mapping[int, TextChange] = {}
        if _wants_change(decision) is not None:
            try:
                changes = changes_of(decision, texts)
            except CannotRedact as error:
                problem = str(error)
                _log.error("a request was refused, because what a policy wants changed in it cannot be: %s", problem)
        approves = decision.action is Action.APPROVE and not problem
        if approves and await self._approvals.request(x, decision, texts):
            decision = decision.model_copy(update={"action": Action.ALLOW})
        if decision.refuses or problem:
            unavailable = decision.code == "judge_unavailable"
            raise Refuse(
                decision.code,
                decision.refusal or f"Blocked by policy {decision.rule}. The request was not sent to the model.",
                rule=decision.rule,
                retry_after=5 if unavailable else None,
            )
        first = x.message_count - len(texts)
        return {first + at: change for at, change in changes.items()}

    async def _signals_of(self, texts: list[str]) -> list[Signal]:
        """The signals of a request's new messages."""
        if sum(map(len, texts)) < _LARGE:
            return self._policies.message_signals(texts)
        return await asyncio.to_thread(self._policies.message_signals, texts)

    def forget(self, x: Exchange) -> None:
        """The request is on its way: keep of it what policies in force may still be shown, and no more."""
        self._backgrounds.keep(x)
        x.forget(messages=self._forgets_messages, tools=self._forgets_tools)

    def covered(self, x: Exchange) -> dict[str, str]:
        """What was judged of it when it is over, and what was not and why."""
        return self._coverage.of(x)

    def over(self, x: Exchange) -> None:
        """Nothing more is asked about ``x``."""
        self._backgrounds.release(x)

    async def late(self, x: Exchange) -> None:
        """Nobody waits any more: ask the policies that only record and had no answer at once."""
        await self._deciding.late(x)

    async def ask(self, x: Exchange, question: Question | TextQuestion) -> Answer:
        """What follows from a question of the gate."""
        if isinstance(question, Question):
            return await self.call(x, question)
        return await self.text(x, question.choice, question.found)

    async def call(self, x: Exchange, question: Question) -> Answer:
        """Stage ``tool_call``: one complete (or cut off) call."""
        outcome = await self._outcome(x, question)
        x.outcomes[(question.call.choice, question.call.index)] = outcome
        try:
            await self._recorder.commit(self._recorder.call(x, outcome))
        except JournalError:
            if self.holds_calls:
                self._unrecorded(x, outcome)
        if not self.holds_calls:
            return Answer()
        self._metrics.call(outcome.outcome)
        return self.answer(outcome)

    def answer(self, outcome: Outcome) -> Answer:
        """What follows from an outcome for the gate."""
        if not self.holds_calls:
            return Answer()
        if outcome.refusal is None:
            return Answer(arguments=splices(outcome.call.arguments, outcome.arguments))
        return Answer(outcome.refusal, outcome.outcome == "terminated", self._refusal == "error")

    async def text(self, x: Exchange, choice: int, found: Found) -> Answer:
        """Stages ``reasoning`` and ``output``, and calls that stand in plain text (stage ``tool_call``): what is not
        allowed cuts the answer."""
        refusal: str | None = None
        for call in found.calls:
            seen = x.seen.choice(choice)
            nth, seen.written = seen.written, seen.written + 1
            whole = ToolCall(choice, nth, None, call.name, call.arguments, call.complete)
            outcome = await self._outcome(
                x, Question(0, whole), f"call {nth} in the {found.surface} of choice {choice}"
            )
            outcome.in_text = found.surface
            x.outcomes[(choice, -1 - nth)] = outcome
            try:
                await self._recorder.commit(self._recorder.call(x, outcome))
            except JournalError:
                self._unrecorded(x, outcome)
            self._metrics.call(outcome.outcome)
            refusal = refusal or outcome.refusal
        answer = Answer()
        if (found.hits or found.ended) and found.surface in self.texts:
            answer = await self._text_decision(x, choice, found)
            refusal = answer.refusal or refusal
        if refusal is None:
            return answer
        return Answer(refusal, cut=True, error=self._refusal == "error")

    async def _text_decision(self, x: Exchange, choice: int, found: Found) -> Answer:
        """The refusal with which the answer is cut, or what is masked of it."""
        stage = STAGE_OF[found.surface]
        rule = self._policies.text_rule(stage)
        assert rule is not None
        seen = x.seen.choices[choice]
        said = (seen.text if found.surface == "text" else seen.reasoning) if rule.text else None
        exposed = sum(max(0, min(hit.end, found.left) - hit.start) for hit in found.hits)
        masking, place = TextMasking(x, choice, found), f"{found.surface} of choice {choice}"
        decision = await self._deciding.decide(
            x,
            stage,
            place,
            text=text_facts(
                "output" if stage is Stage.OUTPUT else "reasoning", choice, said, found.size, complete=found.ended
            ),
            signals=signals_of_hits(found.hits),
            exposed=exposed,
            masking=masking,
            strict=found.settled,
        )
        if not decision.refuses and decision.action not in CHANGES:
            return Answer()
        masks = decision.action in CHANGES and not masking.problem
        if masks and masking.masks is None:
            return Answer(surface=found.surface)  # nothing leaves by this: all matches are asked about
        recorded = await self._deciding.recorded(x, stage, place, masks)
        if masks and not recorded:
            return Answer(STOPPED_UNRECORDED)
        if masks:
            masking.made()
            return Answer(surface=found.surface, masks=masking.masks)
        if masking.problem:
            _log.error("an answer was cut, because it cannot be masked: %s", masking.problem)
        return Answer(decision.refusal or f"Blocked by policy {decision.rule}. The answer was stopped here.")

    async def _look_beside(self, x: Exchange) -> None:
        """Text stages that only record are asked when the answer is over: nothing waits for them."""
        for surface, rule in self._texts_beside.items():
            for number, seen in sorted(x.seen.choices.items()):
                said = seen.said if surface == "text" else seen.thought
                if not said:
                    continue
                scanner = rule.scanner() if rule.scanner is not None else None
                hits = (*scanner.feed(said), *scanner.end()) if scanner is not None else ()
                if hits or rule.at_end:
                    size = len(seen.text if surface == "text" else seen.reasoning)
                    await self._text_decision(x, number, Found(surface, hits, (), True, size, size))

    async def _look_behind(self, x: Exchange) -> None:
        """Policies that only record, and read where a call's values are from, are asked when the answer is over."""
        for call, place in x.behind:
            arguments = object_of(call.arguments, self._depth)
            known = await self._backgrounds.call(x, call, arguments)
            facts = self._call_facts(x, call, arguments, known)
            await self._deciding.decide(
                x, Stage.TOOL_CALL, place, call=facts, known=known, without=self._backgrounds.before
            )
        x.behind.clear()

    async def response(self, x: Exchange) -> None:
        """What is asked when the exchange is over: it is recorded; nothing that left can change."""
        await self._look_beside(x)
        await self._look_behind(x)
        if not self._policies.in_force(Stage.RESPONSE):
            return
        for number, seen in sorted(x.seen.choices.items()):
            if not seen.responded:
                await self._deciding.decide(
                    x, Stage.RESPONSE, f"choice {number}", response=self._response_facts(x, number)
                )

    async def whole(self, x: Exchange, number: int) -> Answer:
        """Stage ``response`` of a choice that is given as a whole: nothing of it has left, so it can be masked, or be
        withheld. Not asked where no policy is enforced."""
        if not self._policies.enforced(Stage.RESPONSE):
            return Answer()
        seen = x.seen.choice(number)
        seen.responded, masking = True, ResponseMasking(seen)
        place, facts = f"choice {number}", self._response_facts(x, number)
        decision = await self._deciding.decide(x, Stage.RESPONSE, place, response=facts, masking=masking)
        if not decision.refuses and decision.action not in CHANGES:
            return Answer()
        masks = decision.action in CHANGES and not masking.problem
        recorded = await self._deciding.recorded(x, Stage.RESPONSE, place, masks)
        if masks and not recorded:
            return Answer(STOPPED_UNRECORDED, cut=True, error=self._refusal == "error")
        if masks:
            masking.made()
            return Answer()
        if masking.problem:
            _log.error("an answer was withheld, because it cannot be masked: %s", masking.problem)
        refusal = decision.refusal or f"Blocked by policy {decision.rule}. The answer was withheld."
        return Answer(refusal, cut=True, error=self._refusal == "error")

    def _response_facts(self, x: Exchange, number: int) -> ResponseFacts:
        seen = x.seen.choices[number]
        return ResponseFacts(
            choice=number,
            text=seen.said,
            reasoning=seen.thought,
            finish_reason=seen.finish,
            calls=[
                self._call_facts(x, ToolCall(number, i, *seen.call(i)), object_of(seen.call(i)[2], self._depth))
                for i in sorted(seen.calls)
            ],
        )

    # -- parts -------------------------------------------------------------------------------------

    def _unrecorded(self, x: Exchange, outcome: Outcome) -> None:
        """What was decided may reach the disk later, but is not what happens: a second record says so."""
        _log.error("a tool call was refused because the journal cannot be written")
        outcome.outcome, outcome.refusal, outcome.rule = "unrecorded", CALL_UNRECORDED, UNRECORDED
        with contextlib.suppress(JournalError):
            self._recorder.call(x, outcome)

    async def _outcome(self, x: Exchange, question: Question, place: str | None = None) -> Outcome:
        call = question.call
        offered = any(tool.name == call.name for tool in x.request.tools)
        if question.problem == "held_bytes":
            return self._refused(call, offered, "held_bytes", "interlock/held_bytes", TOO_LARGE)
        if question.problem == "renamed":
            if not self.holds_calls:
                return Outcome(call, "unasked", "interlock/malformed_call")
            return self._refused(call, False, "malformed", "interlock/malformed_call", RENAMED)
        # Of a call that was cut off too, if its arguments are whole all the same.
        arguments = object_of(call.arguments, self._depth)
        if arguments is None and call.complete:
            if not self.holds_calls:
                return Outcome(call, "unasked", "interlock/malformed_arguments")
            return self._refused(call, offered, "malformed", "interlock/malformed_arguments", MALFORMED)
        if not self._policies.in_force(Stage.TOOL_CALL):
            return Outcome(call, "unasked")
        in_text, place = place is not None, place or f"call {call.choice}.{call.index}"
        behind = self._backgrounds.behind
        if behind:
            x.behind.append((call, place))
        known = None if behind else await self._backgrounds.call(x, call, arguments)

        def facts_of(one: ToolCall) -> CallFacts:
            same = arguments if one is call else object_of(one.arguments, self._depth)
            return self._call_facts(x, one, same, known)

        async def decide(facts: CallFacts, *, strict: bool = True) -> Decision:
            return await self._deciding.decide(
                x, Stage.TOOL_CALL, place, call=facts, known=known, without=behind, strict=strict
            )

        facts, given = facts_of(call), call
        decision = await decide(facts, strict=False)
        maskable = decision.action in CHANGES and arguments is not None and not in_text
        if maskable:
            try:
                given, decision = await masked_call(
                    call, facts, decision, signals=self._policies.signals, facts_of=facts_of, decide=decide
                )
            except CannotRedact as problem:
                _log.error("a tool call was refused, because it cannot be masked: %s", problem)
                maskable = False
        if not (maskable and decision.action in CHANGES) and (rule := _wants_change(decision)) is not None:
            text = f"Blocked by policy {rule}. The tool call was not executed."
            return self._refused(call, offered, "denied", rule, text)
        if decision.action is Action.APPROVE:
            sinks = partial(sink_values, self._backgrounds.table, call.name, facts_of(given).arguments)
            if await self._approvals.call(x, given, decision, sinks):
                return Outcome(call, "approved", decision.rule, masked=None if given is call else given.arguments)
        if decision.refusal is not None:
            kind = "terminated" if decision.action is Action.TERMINATE else "denied"
            return self._refused(call, offered, kind, decision.rule, decision.refusal)
        if given is not call:
            return Outcome(call, "masked", decision.rule, masked=given.arguments)
        return Outcome(call, "allowed" if decision.asked else "unasked", decision.rule)

    def _refused(self, call: ToolCall, offered: bool, kind: str, rule: str | None, text: str) -> Outcome:
        """The tool is named only if the request offered one of just that name: else the name is the model's."""
        return Outcome(call, kind, rule, f"[{call.name}] {text}" if offered else text)

    def _call_facts(
        self, x: Exchange, call: ToolCall, arguments: dict[str, Any] | None, known: Facts | None = None
    ) -> CallFacts:
        logprobs = call_logprobs(x.seen, call) if self._reads_logprobs else None
        changed = self._reads_changes and call.name in x.changed_tools
        return call_facts(call, arguments, x.request.tools, logprobs, known, changed, compared=self._compares)


def _wants_change(decision: Decision) -> str | None:
    """The rule that wants something changed, where nothing stricter refuses it. Where that cannot be done to a call, an
    operator's approval, which another rule asks for, does not do it either."""
    if decision.action not in (*CHANGES, Action.APPROVE):
        return None
    for found in decision.findings:
        counts = found.mode is Mode.ENFORCE and found.exception is None
        if counts and found.finding.action in CHANGES:
            return f"{found.policy}/{found.finding.id}"
    return None
