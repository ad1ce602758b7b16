"""The policies in force, as the proxy sees them: one object to ask.

    policies = PolicySet.load(settings.policies, settings.agents)
    await policies.start()
    decision = await policies.decide(question)
    await policies.close()

A decision is a function of the question, the bundle and the modes; the same projected question is therefore
answered from memory. Only whole answers are remembered, never failures.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Set
from typing import Any, Literal

from policies.bundle import Bundle
from policies.compose import compose, findings_of
from policies.engines.base import Engine, EngineError
from policies.engines.embedded import EmbeddedEngine
from policies.engines.opa import OpaEngine
from policies.model import TEXT_STAGES, Action, CallFacts, Decision, DecisionInput, Finding, Mode, Signal, Stage
from policies.modes import modes_in_force, rollout_digest
from policies.projection import Include, document_of, include_of, reads_of
from policies.signals import signals_of_call
from policies.text_rules import TextRule, names_field, reads_field, text_rule, wakes
from serving.patterns import PatternSet, shipped_patterns
from serving.settings import AgentSettings, PolicySettings

REMEMBERED = 512
REMEMBERED_BYTES = 4096

Answers = dict[str, list[Finding] | EngineError]


class PolicySet:
    """A bundle, its modes and the engine that evaluates it. Made by :meth:`load`."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        modes: Mapping[str, Mode],
        on_error: Literal["deny", "allow"] = "deny",
        patterns: tuple[PatternSet, ...] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        timeout_seconds: float = math.inf,
    ) -> None:
        self.bundle = bundle
        self.modes = dict(modes)
        self.digest = bundle.digest
        self.rollout_digest = rollout_digest(modes, on_error)
        self._engine = engine
        self._on_error = on_error
        self._patterns = shipped_patterns() if patterns is None else patterns
        self._clock = clock
        self._timeout = timeout_seconds
        entries = [entry for entry in bundle.policies if entry.name in self.modes]
        self._asked = {
            stage: {entry.name: frozenset(entry.stages[stage]) for entry in entries if stage in entry.stages}
            for stage in Stage
        }
        self._reads = {stage: reads_of((entry.stages for entry in entries), stage) for stage in Stage}
        self._parts = {s: frozenset(name.partition(".")[0] for name in self._reads[s]) for s in Stage}
        self._quiet: dict[tuple[Stage, frozenset[str]], Decision] = {}
        self._include: dict[Stage, Include | None] = {s: include_of(self._reads[s]) for s in Stage}
        self._entries = {entry.name: entry for entry in entries}
        self._text_rules = {stage: text_rule(stage, entries, self.modes, self._patterns) for stage in TEXT_STAGES}
        self._remembered: OrderedDict[tuple[Stage, bytes, frozenset[str]], Decision] = OrderedDict()

    @classmethod
    def load(cls, settings: PolicySettings, agents: Mapping[str, AgentSettings] | None = None) -> PolicySet:
        """Read the bundle and compile it for the engine that the settings name.

        Raises :class:`BundleError` (a hold that is too short for a pattern among them), :class:`UnknownPolicyError` or
        :class:`ValueError`, each saying which setting or file is wrong.
        """
        bundle = effective_bundle(settings, agents or {})
        modes = modes_in_force([entry.name for entry in bundle.policies], settings.modes)
        engine: Engine
        if settings.engine == "opa":
            if settings.opa_url is None:
                raise ValueError("policies.engine is opa, but policies.opa_url does not say where it is")
            token = settings.opa_token.get_secret_value() if settings.opa_token else None
            engine = OpaEngine(bundle, str(settings.opa_url), token, settings.timeout_seconds)
        else:
            engine = EmbeddedEngine(bundle, settings.timeout_seconds)
        return cls(
            bundle,
            engine,
            modes,
            settings.on_error,
            timeout_seconds=settings.timeout_seconds,
        )

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
        """Whether a policy at this stage is shown anything of a part of the input (``request``, ``run``). What none is
        shown need not be made."""
        parts = self._parts[stage]
        return part in parts or "*" in parts

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

    def signals(self, call: CallFacts) -> list[Signal]:
        """The signals of a tool call; none are looked for if no policy in force reads them."""
        return signals_of_call(call, self._patterns) if self.reads_field(Stage.TOOL_CALL, "signals") else []

    async def decide(self, question: DecisionInput, without: Set[str] = frozenset()) -> Decision:
        """Ask every policy that can have something to say, but for those named in ``without``. Never raises for what a
        policy, an engine or the input does wrong: that is in ``decision.errors``, and denies if the policy is
        enforced."""
        began = self._clock()
        stage = question.stage
        asked = frozenset(
            name
            for name, reads in self._asked[stage].items()
            if name not in without and wakes(self._entries[name], reads, question.signals)
        )
        if not asked:
            return self._signed(Decision(stage=stage, action=Action.ALLOW), began)
        try:
            document = document_of(question, self._include[stage])
        except EngineError as error:
            return self._signed(self._composed(stage, dict.fromkeys(asked, error)), began)
        key = (stage, document, asked)
        known = self._remembered.get(key)
        if known is None:
            known = self._composed(stage, await self._answers(stage, document, asked))
            if not known.errors and len(document) <= REMEMBERED_BYTES:
                self._remembered[key] = known
                if len(self._remembered) > REMEMBERED:
                    self._remembered.popitem(last=False)
        else:
            self._remembered.move_to_end(key)
        return self._signed(known, began)

    async def _answers(self, stage: Stage, document: bytes, asked: frozenset[str]) -> Answers:
        """All at once; where that fails or a policy is missing in the answer, those are asked alone, the enforced ones
        first. All of it together has ``timeout_seconds``."""
        ends = self._clock() + self._timeout
        try:
            together = await self._engine.ask_all(stage, document, self._timeout)
        except EngineError as error:
            if error.cause == "engine" and self._engine.name == "opa":
                return dict.fromkeys(asked, error)
            together = {}
        answers: Answers = {}
        for name in sorted(asked, key=lambda name: (self.modes[name] is not Mode.ENFORCE, name)):
            try:
                if name in together:
                    answers[name] = findings_of(together[name]) if together[name] != [] else []
                else:
                    answers[name] = findings_of(await self._engine.ask_one(name, stage, document, ends - self._clock()))
            except EngineError as error:
                answers[name] = error
        return answers

    def _composed(self, stage: Stage, answers: Answers) -> Decision:
        if any(answers.values()):
            return compose(stage, self.modes, answers, self._on_error)
        silent = (stage, frozenset(answers))  # nobody found anything: always the same decision
        known = self._quiet.get(silent)
        if known is None:
            known = self._quiet[silent] = compose(stage, self.modes, answers, self._on_error)
        return known

    def _signed(self, decision: Decision, began: float) -> Decision:
        return decision.model_copy(
            update={
                "engine": self._engine.name,
                "bundle": self.digest,
                "rollout": self.rollout_digest,
                "duration_us": round((self._clock() - began) * 1e6),
            }
        )


def effective_bundle(settings: PolicySettings, agents: Mapping[str, AgentSettings]) -> Bundle:
    """The bundle of the settings with the data of the settings laid over it. An OPA server must be started
    with exactly this one (``effective_bundle(…).write(folder)``): its digest is the revision asked for."""
    return with_settings(Bundle.load(settings.bundle), settings, agents)


def with_settings(bundle: Bundle, settings: PolicySettings, agents: Mapping[str, AgentSettings]) -> Bundle:
    """``bundle`` with ``settings.data`` and the agents' lists of tools laid over its data."""
    data: dict[str, dict[str, Any]] = {name: dict(own) for name, own in settings.data.items()}
    allowed = {name: sorted(agent.tools) for name, agent in agents.items() if agent.tools is not None}
    if allowed and any(entry.name == "interlock.tools" for entry in bundle.policies):
        tools = data.setdefault("interlock.tools", {})
        tools["agents"] = allowed | tools.get("agents", {})
    return bundle.with_data(data)
