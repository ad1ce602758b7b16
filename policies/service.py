"""The policies in force for an agent, as the proxy sees them: one object to ask.

    decision = await policies.decide(question)

A decision is a function of the question, the bundle and the roll-out; the same projected question is therefore
answered from memory. Only whole answers are remembered, never failures. Which set is whose: ``policies.in_force``.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import UTC, datetime
from functools import partial
from typing import Any

from policies.asking import Answers, Asking
from policies.bundle import Bundle, PolicyEntry, configured
from policies.compose import compose
from policies.engines.base import Engine, EngineError
from policies.fail_open import FailOpen
from policies.model import (
    TEXT_STAGES,
    Action,
    CallFacts,
    Decision,
    DecisionInput,
    Finding,
    Mode,
    OrderPassage,
    Signal,
    Stage,
)
from policies.modes import rollout_digest
from policies.projection import Include, document_of, include_of, reads_of
from policies.rollout import Exempted
from policies.serials import Intake
from policies.signals import signals_of_call, signals_of_messages
from policies.text_rules import TextRule, names_field, reads_field, text_rule, wakes
from serving.patterns import PatternSet, shipped_patterns
from serving.settings import AgentSettings, PolicySettings

REMEMBERED = 512
REMEMBERED_BYTES = 4096

Excepting = tuple[Exempted, ...]


class PolicySet:
    """A bundle, its modes and the engine that evaluates it. ``rollout``: the digest of what says the modes; without it,
    of the modes themselves. ``exceptions``: those that may hold for the agents of this set. ``logged``: the engine
    keeps a log of decisions, and is asked about each."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        modes: Mapping[str, Mode],
        *,
        patterns: tuple[PatternSet, ...] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        timeout_seconds: float = math.inf,
        rollout: str | None = None,
        exceptions: Sequence[Exempted] = (),
        fail_open: FailOpen | None = None,
        logged: bool = False,
    ) -> None:
        self.bundle = bundle
        self.modes = dict(modes)
        self.digest = bundle.digest
        self.rollout_digest = rollout or rollout_digest(modes)
        self._engine = engine
        self._exceptions = tuple(exceptions)
        self._fail_open = fail_open
        self._clock = clock
        self._asking = Asking(engine, self.modes, timeout_seconds, clock)
        in_force = [entry for entry in bundle.policies if entry.name in self.modes]
        entries = [entry for entry in in_force if configured(entry, bundle.data)]
        named = {name for entry in entries for name in entry.patterns}
        self._patterns = shipped_patterns(named) if patterns is None else patterns
        self.idle = {entry.name: entry.needs for entry in in_force if entry not in entries}
        """Policies that are in force and not asked, because nothing that they need is set: name → data keys."""
        self._asked = {
            stage: {entry.name: frozenset(entry.stages[stage]) for entry in entries if stage in entry.stages}
            for stage in Stage
        }
        self._reads = {stage: reads_of((entry.stages for entry in entries), stage) for stage in Stage}
        self._shown: dict[tuple[Stage, str], bool] = {}
        self._quiet: dict[tuple[Stage, frozenset[str]], Decision] = {}
        self._logged = logged
        shown = {s: reads | self._for_the_log(s) for s, reads in self._reads.items()}
        self._include: dict[Stage, Include | None] = {s: include_of(shown[s]) for s in Stage}
        self._entries = {entry.name: entry for entry in entries}
        self._awake, self._sleeping = {}, {}
        for stage, those in self._asked.items():
            awake = frozenset(name for name, reads in those.items() if wakes(self._entries[name], reads, ()))
            self._awake[stage] = awake
            self._sleeping[stage] = {name: reads for name, reads in those.items() if name not in awake}
        self._text_rules = {stage: text_rule(stage, entries, self.modes, self._patterns) for stage in TEXT_STAGES}
        self._remembered: OrderedDict[tuple[Stage, bytes, frozenset[str], Excepting], Decision] = OrderedDict()

    async def start(self) -> None:
        await self._engine.start()

    async def close(self) -> None:
        await self._engine.close()

    @property
    def engine(self) -> str:
        return self._engine.name

    def in_force(self, stage: Stage) -> bool:
        """Whether any policy in force, in whatever mode, has something to say at this stage."""
        return bool(self._asked[stage])

    def enforced(self, stage: Stage) -> bool:
        """Whether any policy at this stage can change what the client gets."""
        return any(self.modes[name] is Mode.ENFORCE for name in self._asked[stage])

    def reads(self, stage: Stage) -> frozenset[str]:
        """The dotted input fields that the policies in force read at this stage, or ``{"*"}`` for all."""
        reads = self._reads[stage]
        return frozenset({"*"}) if "*" in reads else reads

    def reads_field(self, stage: Stage, field: str) -> bool:
        """Whether ``field`` (dotted), a part of it or a whole that it is part of is read at this stage."""
        return reads_field(self.reads(stage), field)

    def shown(self, stage: Stage, part: str) -> bool:
        """Whether a policy at this stage is shown anything of a part of the input (``request``, ``run``,
        ``request.tools``). What none is shown need not be made."""
        known = self._shown.get((stage, part))
        if known is None:
            known = self.reads_field(stage, part) or (
                part == "request" and any(one.written.when.models is not None for one in self._exceptions)
            )
            self._shown[stage, part] = known
        return known

    def text_rule(self, stage: Stage) -> TextRule | None:
        """What the policies in force want of text that is still being written; None if none has this stage."""
        return self._text_rules.get(stage)

    def wants(self, stage: Stage, field: str) -> bool:
        """Whether an enforced policy reads just ``field`` (dotted) or a part of it at this stage, so that it is to be
        had if it can be. One that may read anything takes what there is."""
        return any(
            names_field(reads, field)
            for policy, reads in self._asked[stage].items()
            if self.modes[policy] is Mode.ENFORCE
        )

    def names(self, stage: Stage, field: str) -> bool:
        """The same of a policy in whatever mode."""
        return any(names_field(reads, field) for reads in self._asked[stage].values())

    def asked(self, stage: Stage) -> Mapping[str, frozenset[str]]:
        """The policies in force that have this stage, each with the dotted input fields that it reads there."""
        return self._asked[stage]

    def entry(self, policy: str) -> PolicyEntry:
        """What the manifest says of a policy in force."""
        return self._entries[policy]

    def signals(self, call: CallFacts) -> list[Signal]:
        """The signals of a tool call; none are looked for if no policy in force reads them."""
        return signals_of_call(call, self._patterns) if self.shown(Stage.TOOL_CALL, "signals") else []

    def message_signals(self, texts: Sequence[str]) -> list[Signal]:
        """The signals of messages; none are looked for if no policy in force reads them at the stage ``request``."""
        return signals_of_messages(texts, self._patterns) if self.shown(Stage.REQUEST, "signals") else []

    async def decide(
        self,
        question: DecisionInput,
        now_ns: int = 0,
        without: Set[str] = frozenset(),
        orders: Sequence[OrderPassage] = (),
        *,
        strict: bool = False,
        later: set[str] | None = None,
    ) -> Decision:
        """Ask every policy that can have something to say, but for those named in ``without``. Never raises for what a
        policy, an engine or the input does wrong: that is in ``decision.errors``, and denies if the policy is
        enforced. ``now_ns``: nanoseconds since the epoch, when the exchange began; an exception that has ended by then
        does not hold. ``orders``: those of the question, as :func:`policies.projection.document_of` takes them.
        ``strict``: nothing is let by unjudged, though the settings fail open. ``later``: somebody waits, so policies
        that only record and have no answer yet are put into it; the caller asks them when nobody waits any more."""
        began = self._clock()
        stage = question.stage
        asked = self._awake[stage]
        if sleeping := self._sleeping[stage]:
            asked |= {name for name, reads in sleeping.items() if wakes(self._entries[name], reads, question.signals)}
        if without:
            asked -= without
        if not asked:
            return self._signed(Decision(stage=stage, action=Action.ALLOW), began)
        agent = question.identity.agent
        if self._fail_open is not None:
            self._fail_open.asked(agent, asked)
        excepting = self._excepting(question, now_ns) if self._exceptions else ()
        try:
            document = document_of(question, self._include[stage], orders)
        except EngineError as error:
            return self._signed(self._composed(stage, dict.fromkeys(asked, error), agent, excepting, strict), began)
        key = (stage, document, asked, excepting)
        known = self._remembered.get(key)
        if known is None:
            answers = await self._asking.answers(stage, document, asked, question.exchange, later)
            known = self._composed(stage, answers, agent, excepting, strict)
            if not (known.errors or later or self._logged) and len(document) <= REMEMBERED_BYTES:
                self._remembered[key] = known
                if len(self._remembered) > REMEMBERED:
                    self._remembered.popitem(last=False)
        else:
            self._remembered.move_to_end(key)
        return self._signed(known, began)

    def completed(
        self, decision: Decision, known: Mapping[str, list[Finding]], question: DecisionInput, now_ns: int
    ) -> Decision:
        """``decision`` with what further policies are known to find in the same question, composed anew."""
        found: dict[str, list[Finding]] = {name: [] for name in decision.asked}
        for entry in decision.findings:
            found[entry.policy].append(entry.finding)
        failed = {error.policy: EngineError(error.cause, error.message) for error in decision.errors}
        answers: Answers = {**found, **failed, **known}
        excepting = self._excepting(question, now_ns) if self._exceptions else ()
        composed = self._composed(decision.stage, answers, question.identity.agent, excepting)
        parts = ("findings", "errors", "asked", "action", "rule", "refusal", "code")
        return decision.model_copy(update={name: getattr(composed, name) for name in parts})

    def _for_the_log(self, stage: Stage) -> frozenset[str]:
        """What the log's mask wants to know beside what policies read: whether a tool's name is one."""
        return frozenset({"call.offered"} if self._logged and stage is Stage.TOOL_CALL and self._asked[stage] else ())

    def _excepting(self, question: DecisionInput, now_ns: int) -> Excepting:
        """The exceptions that hold for this question."""
        now = datetime.fromtimestamp(now_ns / 1e9, UTC)
        agent, team = question.identity.agent, question.identity.team
        return tuple(one for one in self._exceptions if one.covers_agent(agent, team) and one.holds(question, now))

    def _composed(
        self, stage: Stage, answers: Answers, agent: str, excepting: Excepting, strict: bool = False
    ) -> Decision:
        if any(answers.values()):
            return compose(
                stage,
                self.modes,
                answers,
                passes=partial(self._passes, agent) if self._fail_open is not None and not strict else None,
                excepted=partial(_excepted, excepting) if excepting else None,
            )
        silent = (stage, frozenset(answers))  # nobody found anything: always the same decision
        known = self._quiet.get(silent)
        if known is None:
            known = self._quiet[silent] = compose(stage, self.modes, answers)
        return known

    def _passes(self, agent: str, policy: str) -> bool:
        assert self._fail_open is not None
        return self._fail_open.passes(agent, policy, self._entries[policy].severity)

    def _signed(self, decision: Decision, began: float) -> Decision:
        return decision.model_copy(
            update={
                "engine": self._engine.name,
                "bundle": self.digest,
                "rollout": self.rollout_digest,
                "duration_us": round((self._clock() - began) * 1e6),
            }
        )


def _excepted(excepting: Excepting, policy: str, finding: str) -> str | None:
    return next((one.name for one in excepting if one.covers(policy, finding)), None)


def effective_bundle(
    settings: PolicySettings, agents: Mapping[str, AgentSettings], intake: Intake | None = None
) -> Bundle:
    """The bundle of the settings with the data of the settings laid over it. An OPA server must be started
    with exactly this one (``effective_bundle(…).write(folder)``): its digest is the revision asked for.

    Raises :class:`BundleError`, for a signature that is missing or wrong too, and :class:`NotYet`."""
    return with_settings(Bundle.load(settings.bundle, settings.bundle_keys, intake), settings, agents)


def with_settings(bundle: Bundle, settings: PolicySettings, agents: Mapping[str, AgentSettings]) -> Bundle:
    """``bundle`` with ``settings.data`` and the agents' lists of tools laid over its data."""
    data: dict[str, dict[str, Any]] = {name: dict(own) for name, own in settings.data.items()}
    allowed = {name: sorted(agent.tools) for name, agent in agents.items() if agent.tools is not None}
    if allowed and any(entry.name == "interlock.tools" for entry in bundle.policies):
        tools = data.setdefault("interlock.tools", {})
        tools["agents"] = allowed | tools.get("agents", {})
    return bundle.with_data(data)
