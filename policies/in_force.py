"""The policies as the roll-out puts them in force: for each agent the set that counts for it.

    policies = Policies.load(settings.policies, settings.agents)
    await policies.start()
    decision = await policies.of(agent, team).decide(question)
    await policies.close()

One bundle and one engine serve everybody; agents for whom the roll-out says the same share a :class:`PolicySet`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime

from policies.bundle import Bundle
from policies.engines.base import Engine
from policies.engines.embedded import EmbeddedEngine
from policies.engines.opa import OpaEngine
from policies.fail_open import FailOpen
from policies.model import Mode, Stage
from policies.modes import unknown_policies
from policies.rollout import SOON, Exempted, Rollout, RolloutError
from policies.serials import Intake, Serials
from policies.service import PolicySet, effective_bundle
from serving.settings import AgentSettings, PolicySettings


class Policies:
    """Made by :meth:`load`. ``strangers``: agents that the roll-out names and the settings do not have."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        rollout: Rollout,
        settings: PolicySettings,
        agents: Mapping[str, AgentSettings],
        intake: Intake | None = None,
    ) -> None:
        self.bundle = bundle
        self._intake = intake
        self.rollout = rollout
        self.strangers = sorted(rollout.strangers(frozenset(agents)))
        self._engine = engine
        self._settings = settings
        self._names = [entry.name for entry in bundle.policies]
        self._fail_open = FailOpen(settings.fail_open, time.monotonic) if settings.on_error == "allow" else None
        self._sets: dict[tuple[tuple[tuple[str, Mode], ...], tuple[str, ...]], PolicySet] = {}
        self._by_agent: dict[tuple[str, str | None], PolicySet] = {}
        for name, agent in agents.items():  # what is wrong for one of them is wrong at the start
            self.of(name, agent.team)

    @classmethod
    def load(
        cls,
        settings: PolicySettings,
        agents: Mapping[str, AgentSettings] | None = None,
        serials: Serials | None = None,
    ) -> Policies:
        """Read the bundle and the roll-out, and compile the one for the engine that the settings name. ``serials``:
        which signed ones have been in force.

        Raises :class:`BundleError` (a hold that is too short for a pattern among them), :class:`RolloutError`,
        :class:`UnknownPolicyError`, :class:`NotYet` or :class:`ValueError`, each saying which setting or file is wrong.
        """
        intake = serials.intake() if serials is not None else None
        bundle = effective_bundle(settings, agents or {}, intake)
        rollout = rollout_of(settings, bundle, intake)
        engine: Engine
        if settings.engine == "opa":
            if settings.opa_url is None:
                raise ValueError("policies.engine is opa, but policies.opa_url does not say where it is")
            token = settings.opa_token.get_secret_value() if settings.opa_token else None
            engine = OpaEngine(bundle, str(settings.opa_url), token, settings.timeout_seconds)
        else:
            if settings.decision_log:
                raise ValueError("policies.decision_log is OPA's; it needs policies.engine: opa")
            engine = EmbeddedEngine(bundle, settings.timeout_seconds)
        policies = cls(bundle, engine, rollout, settings, agents or {}, intake)
        policies.of("anonymous", None)
        return policies

    async def start(self) -> None:
        await self._engine.start()

    async def prove(self) -> None:
        """Ask the engine once. Raises :class:`EngineError` if it does not answer, or serves another bundle."""
        stages = [stage for stage in Stage if any(stage in entry.stages for entry in self.bundle.policies)]
        if stages:
            await self._engine.ask_all(stages[0], b"{}")

    def taken(self) -> None:
        """They are in force: from now on nothing older will be. ``OSError`` or ``SignatureError`` if that cannot be
        written down."""
        if self._intake is not None:
            self._intake.in_force()

    async def close(self) -> None:
        await self._engine.close()

    @property
    def digest(self) -> str:
        return self.bundle.digest

    @property
    def engine(self) -> str:
        return self._engine.name

    def of(self, agent: str, team: str | None) -> PolicySet:
        """The policies in force for an agent."""
        known = self._by_agent.get((agent, team))
        if known is None:
            known = self._by_agent[(agent, team)] = self._made(agent, team)
        return known

    def expiring(self, now: datetime) -> list[Exempted]:
        """The exceptions that end within a week, and have not ended yet."""
        return [one for one in self.rollout.exceptions() if now < one.written.expires <= now + SOON]

    def _made(self, agent: str, team: str | None) -> PolicySet:
        modes = self.rollout.modes(self._names, agent, team)
        exceptions = self.rollout.exceptions(agent, team)
        key = tuple(sorted(modes.items())), tuple(one.name for one in exceptions)
        if key not in self._sets:
            self._sets[key] = PolicySet(
                self.bundle,
                self._engine,
                modes,
                timeout_seconds=self._settings.timeout_seconds,
                rollout=self.rollout.digest,
                exceptions=exceptions,
                fail_open=self._fail_open,
                logged=self._settings.decision_log,
            )
        return self._sets[key]


def rollout_of(settings: PolicySettings, bundle: Bundle, intake: Intake | None = None) -> Rollout:
    """The roll-out that the settings name; without one, the settings' modes are it. Raises :class:`RolloutError`,
    :class:`NotYet` or :class:`policies.modes.UnknownPolicyError`."""
    names = [entry.name for entry in bundle.policies]
    if settings.rollout is None:
        if settings.rollout_keys:
            raise RolloutError("policies.rollout_keys has keys, but policies.rollout names no folder to verify")
        unknown_policies(names, settings.modes, "policies.modes")
        return Rollout.of_modes(settings.modes)
    if settings.modes:
        raise RolloutError("policies.modes and policies.rollout both say what holds; put the modes into the roll-out")
    rollout = Rollout.load(settings.rollout, settings.rollout_keys, intake)
    rollout.check(names)
    return rollout
