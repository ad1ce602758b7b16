"""What is remembered of one run: what it used, called and found, and the points that its history reached.

Every part of it is bounded, and it says how much memory it takes, so that all runs together can be bounded too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import msgspec

from policies.model import CheckFact, RecentCall, RunFacts
from proxy.breakers import loops
from proxy.fair_shares import Item
from proxy.history import Step, canonical_arguments
from serving.wire.message_texts import TextChange
from serving.wire.request import SentCall

RECENT_CALLS = 16
RECENT_ARGUMENTS = 1024
RECENT_NAME = 256
FINDINGS_KEPT = 64
CHECKS_KEPT = 32
CHANGES_KEPT = 1024  # two of most messages
TOOLS_KEPT = 256
RUN_BYTES, NODE_BYTES, ID_BYTES, CALL_BYTES, CHANGE_BYTES = 768, 224, 160, 192, 224
"""What a run, a point of its history, a call's id there, a call of late and a changed message take beside their texts,
about."""
_ID_CHARACTERS = 64
TRIPPED, LIVE, KILLED = 1, 2, 3


class TooManyChanges(Exception):
    """More messages of one run were changed than are remembered."""


class Recent(msgspec.Struct, eq=False):
    """A call of late; once its result came (``answered``) with that one's digests as in :class:`~proxy.history.Step`,
    and whether it was another one than the time before. Made by :meth:`of`, so that it is small."""

    call_id: str | None
    name: str
    arguments: str
    answered: bool = False
    result: bytes | None = None
    pair: bytes | None = None
    changed: bool | None = None

    @classmethod
    def of(cls, call_id: str | None, name: str, arguments: str) -> Recent:
        return cls(_short_id(call_id), name[:RECENT_NAME], arguments[:RECENT_ARGUMENTS])

    @property
    def weight(self) -> int:
        """What it takes, about."""
        return CALL_BYTES + text_bytes(self.name) + text_bytes(self.arguments)


def _short_id(call_id: str | None) -> str | None:
    """Of an id of any length, enough to tell it from others."""
    if call_id is None or len(call_id) <= _ID_CHARACTERS:
        return call_id
    return blake2b(call_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def text_bytes(text: str) -> int:
    """What a text takes beside its head: Python keeps one wide character's width for all."""
    return len(text) if text.isascii() else 4 * len(text)


def _tool_mark(name: str, digest: str) -> bytes:
    """8 bytes for a tool's name and 8 for what it is."""
    named = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8)
    return named.digest() + blake2b(digest.encode(), digest_size=8).digest()


@dataclass(slots=True, eq=False)
class Node:
    """A point that a run's history reached. ``given``: it ends with an answer of ours (else: with a request)."""

    run: Run
    key: bytes
    loop: loops.LoopState
    given: bool
    ids: tuple[bytes, ...] = ()
    continued: int = 0

    @property
    def weight(self) -> int:
        """What it takes, about."""
        return NODE_BYTES + ID_BYTES * len(self.ids) + (self.loop.weight if self.loop.seen else 0)


@dataclass(slots=True, eq=False)
class Run(Item):
    """One agent task. Times are the clock's seconds, ``cost`` is in USD; ``step`` counts the exchanges before
    the latest one, ``live`` those under way. ``tripped`` is the cause while a breaker holds the run, for those who look
    on; it and ``live`` hold the run in its book."""

    id: str
    agent: str
    started: float
    seen: float
    step: int = -1
    tokens: int = 0
    cost: float = 0.0
    tool_calls: int = 0
    tripped: str | None = None
    live: int = 0
    findings: Sequence[str] = ()
    names: Sequence[str] = ()
    checks: Sequence[CheckFact] = ()
    loop: loops.LoopState = loops.START
    recent: Sequence[Recent] = ()
    tools: bytes = b""
    changes: Mapping[str, TextChange] = field(default_factory=dict)
    nodes: dict[bytes, Node] = field(default_factory=dict)
    nodes_bytes: int = 0

    def __post_init__(self) -> None:
        Item.__init__(self, RUN_BYTES)

    @property
    def owner(self) -> str:
        return self.agent

    @property
    def hold(self) -> int:
        if self.tripped == "killed":
            return KILLED
        return LIVE if self.live else TRIPPED if self.tripped is not None else 0

    @property
    def weight(self) -> int:
        """Bytes that it takes, about."""
        if not (self.recent or self.findings or self.checks or self.names or self.changes):
            return RUN_BYTES + self.nodes_bytes
        texts = sum(map(text_bytes, self.findings)) + sum(map(text_bytes, self.names))
        texts += sum(CALL_BYTES + text_bytes(fact.detail or "") for fact in self.checks)
        texts += sum(CHANGE_BYTES + change.weight for change in self.changes.values())
        return RUN_BYTES + self.nodes_bytes + len(self.tools) + texts + sum(call.weight for call in self.recent)

    def offered(self, tools: Mapping[str, str]) -> frozenset[str]:
        """Tools that a request of the run offers, name → digest. Gives those that are not what the run was first
        offered under their name; of the first 256 names."""
        now = b"".join(_tool_mark(name, digest) for name, digest in tools.items())
        if now == self.tools:
            return frozenset()
        known = {self.tools[at : at + 8]: self.tools[at + 8 : at + 16] for at in range(0, len(self.tools), 16)}
        changed: list[str] = []
        for at, name in zip(range(0, len(now), 16), tools, strict=True):
            if known.setdefault(now[at : at + 8], now[at + 8 : at + 16]) != now[at + 8 : at + 16]:
                changed.append(name)
        self.tools = b"".join(mark + digest for mark, digest in known.items())[: 16 * TOOLS_KEPT]
        return frozenset(changed)

    def settle(self, tokens: int, cost: float) -> None:
        """Adds what an exchange used, which is over."""
        self.tokens += tokens
        self.cost += cost

    def add_finding(self, finding: str) -> None:
        """Remembers ``policy/id`` for later policies: each once, the first 64."""
        if finding not in self.findings and len(self.findings) < FINDINGS_KEPT:
            self.findings = (*self.findings, finding)

    def add_check(self, fact: CheckFact) -> None:
        """Remembers what a guardrail check said: the latest 32."""
        self.checks = (*self.checks, fact)[-CHECKS_KEPT:]

    def add_changes(self, changes: Mapping[str, TextChange]) -> None:
        """Remembers what was changed in messages (digest of the message → what), to change it again when they come
        back. Raises :class:`TooManyChanges`: what was withheld once must not come back because it was forgotten."""
        if len(self.changes.keys() | changes.keys()) > CHANGES_KEPT:
            raise TooManyChanges
        self.told_changes(changes)

    def told_changes(self, changes: Mapping[str, TextChange]) -> None:
        """The same of changes that another process has made already, and that bounded them."""
        self.changes = {**self.changes, **changes}

    def facts(self) -> RunFacts:
        """What policies see. Arguments of recent calls are canonical, cut after 1024 characters."""
        return RunFacts(
            id=self.id,
            step=max(self.step, 0),
            tool_calls=self.tool_calls,
            tokens=self.tokens,
            cost_usd=self.cost,
            seconds=max(self.seen - self.started, 0.0),
            recent_calls=[self._recent_call(call) for call in self.recent],
            findings=list(self.findings),
        )

    def so_far(self) -> dict[str, Any]:
        """The counts of :meth:`facts` and the findings, without those that are zero."""
        facts = {
            "tool_calls": self.tool_calls,
            "tokens": self.tokens,
            "cost_usd": self.cost,
            "seconds": max(self.seen - self.started, 0.0),
            "findings": list(self.findings),
        }
        return {name: value for name, value in facts.items() if value}

    def _recent_call(self, call: Recent) -> RecentCall:
        repeats = self.loop.repeats_of(call.pair) if call.pair else 0
        return RecentCall(name=call.name, arguments=call.arguments, result_changed=call.changed, repeats=repeats)

    def called(self, call: SentCall) -> None:
        """A call was given to the client."""
        self.tool_calls += 1
        self._remember(Recent.of(call.id, call.name, canonical_arguments(call.arguments)))

    def went_on(self, loop: loops.LoopState, steps: Sequence[Step]) -> None:
        """A request came with these results, the latest 16 of which count, and brought the detector to ``loop``."""
        self.loop = loop
        for step in steps[-RECENT_CALLS:]:
            self._answered(step)

    def _answered(self, step: Step) -> None:
        """Joins a result to its call. Reading the same result again changes nothing."""
        seen = Recent.of(step.call_id, step.name, step.arguments)
        call = self._call_of(seen, step.result)
        if call is None:
            call = seen
            self._remember(call)
        elif call.answered:
            return
        earlier = self._earlier(call)
        call.answered, call.result, call.pair = True, step.result, step.pair
        if earlier is not None and step.result is not None:
            call.changed = earlier.result != step.result

    def _call_of(self, seen: Recent, result: bytes | None) -> Recent | None:
        """The call that this result answers, or answered already."""
        for call in reversed(self.recent):
            otherwise = call.answered and call.result != result
            if call.call_id == seen.call_id and call.name == seen.name and not otherwise:
                return call
        return None

    def _earlier(self, call: Recent) -> Recent | None:
        for other in reversed(self.recent):
            alike = other.name == call.name and other.arguments == call.arguments
            if other is not call and alike and other.result is not None:
                return other
        return None

    def _remember(self, call: Recent) -> None:
        self.recent = (*self.recent, call)[-RECENT_CALLS:]
