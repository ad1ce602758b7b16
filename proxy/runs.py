"""Which run a request belongs to: stateless calls stitched together by the conversation itself.

How to think about it. A history can only go on with what its client was given, so what leaves is remembered
(:meth:`RunBook.left`) as *nodes*: the hash of the history up to and with that answer, and the ids of its tool
calls. A later request is looked up by evidence, strongest first:

1. an id of a tool call that left once, in the latest assistant turn that has one. Ids are random, so they
   tell twins (identical prompts at the same time) apart, and survive a client that shortens or rewrites its
   history. Some parsers number their ids instead: such an id, and one that left in two runs, is no evidence.
2. the longest prefix that ends with an answer that left; or that is a whole earlier request and goes on with
   an assistant turn (the client changed our answer before it sent it back).
3. a name from the client. It joins or names runs of the same agent; it never overrules 1 and 2.
4. else a new run: always for a request without an assistant turn, so that identical first requests and a
   shared system prompt join nothing; and for a history that is unknown, which is then judged whole.

Where several runs have the same node (twins that were answered in the same words, without calls), their
histories are equal up to here and nothing can tell them apart: each continuation goes to the run that went on
from that node least often, the oldest first. As many twins as go on, so many runs go on, one each; only a
fork or a retry at just that point may count for its twin. A client's name decides where it names one of them.

Nodes carry the state of the loop detector, so that it, too, follows the branch and not the clock. A request
that is refused leaves nothing, and counts for no detector.

Everything is kept per agent (the agent is in every hash), in memory, and bounded in number and bytes. What is
forgotten is fair (``proxy.fair_shares``): the agent that has most loses its run that was not seen for longest, and runs
that are tripped, under way or killed last of all. A forgotten run that goes on is an unknown history.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from proxy.breakers import loops
from proxy.fair_shares import Shares
from proxy.history import Step, turns
from proxy.run import Node, Run
from proxy.shape import Answered, CallKeys, Shape, answered, call_keys, seed_of
from serving.settings import BreakerSettings
from serving.wire.request import ChatRequest, SentCall, SentMessage

NODES_PER_RUN = 256
TWINS_KEPT = 16
NAMES_PER_RUN = 8
NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Sighting(msgspec.Struct, frozen=True):
    """A request, seen as the next exchange of its run.

    ``new_from`` is the index of the first message that the run had not shown in an exchange that was
    answered; 0: nothing of it is known, and all is to be judged. ``steps`` are the results that came with
    this request, oldest first. ``evidence`` is ``first``, ``unknown`` (both: a new run), ``call_id``,
    ``history`` or ``name``. ``changed_tools``: the offered tools that were others earlier in the run.
    """

    run: Run
    new_from: int
    steps: tuple[Step, ...]
    loop: loops.LoopState
    evidence: str
    head: bytes
    assistant_seen: bool
    changed_tools: frozenset[str] = frozenset()


class Found(msgspec.Struct, frozen=True):
    """Where a history stands: its ``run``, the message from which on it is new to the loop detector, whose state
    there is ``loop``; the rest as in :class:`Sighting`."""

    run: Run
    start: int
    loop: loops.LoopState
    new_from: int
    evidence: str
    changed_tools: frozenset[str] = frozenset()


def sight(messages: Sequence[SentMessage], shape: Shape, found: Found, key: bytes) -> Sighting:
    """What happened since the point that was found; to be told to the run by :meth:`Run.went_on`."""
    loop = found.loop
    steps: list[Step] = []
    for turn in turns(messages, found.start, key):
        loop = loops.advance(loop, turn)
        steps.extend(turn.steps)
    seen = shape.first is not None
    changed = found.changed_tools
    return Sighting(found.run, found.new_from, tuple(steps), loop, found.evidence, shape.chain[-1], seen, changed)


class RunBook:
    """All runs that are remembered. Not for several threads.

    ``new_id`` makes a run's id; ``key`` (up to 64 random bytes) keys every digest, so that none can be
    guessed from outside. ``forgotten`` is told of each run that is forgotten. Every exchange that :meth:`find` or
    :meth:`begun` saw is to be told to :meth:`settled`, once.
    """

    def __init__(
        self,
        settings: BreakerSettings,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        key: bytes,
        forgotten: Callable[[Run], None] | None = None,
    ) -> None:
        self._clock = clock
        self._new_id = new_id
        self._key = key
        self._forgotten = forgotten
        self._runs: dict[str, Run] = {}
        self._shares: Shares[Run] = Shares(settings.runs_kept, settings.runs_bytes)
        self._by_history: dict[bytes, Node | tuple[Node, ...]] = {}
        self._by_call: dict[bytes, Node | tuple[Node, ...]] = {}
        self._names: dict[tuple[str, str], Run] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        """Runs, the one that was seen last at the end."""
        return iter(sorted(self._runs.values(), key=lambda run: run.seen))

    def knows(self, agent: str) -> bool:
        """Whether any of them is this agent's."""
        return agent in self._shares

    @property
    def weight(self) -> int:
        """What all of them take, about."""
        return self._shares.bytes

    def get(self, run_id: str) -> Run | None:
        return self._runs.get(run_id)

    def identify(
        self,
        agent: str,
        request: ChatRequest,
        named: str | None = None,
        tools: Mapping[str, str] | None = None,
    ) -> Sighting:
        """The run of a request, by the evidence that the module's text lists. ``named`` is a client's name
        for the run (1 to 128 of ``A-Za-z0-9._:-``; any other is ignored). ``tools``: name → digest of those that it
        offers, where somebody wants to know whether they change."""
        messages = request.messages
        seed = seed_of(self._key, agent)
        shape = Shape.of(seed, messages)
        found = self.find(agent, shape, lambda at: call_keys(seed, messages[at]), named, tools)
        sighting = sight(messages, shape, found, self._key)
        found.run.went_on(sighting.loop, sighting.steps)
        return sighting

    def find(
        self,
        agent: str,
        shape: Shape,
        calls: CallKeys,
        named: str | None = None,
        tools: Mapping[str, str] | None = None,
    ) -> Found:
        """The run of a history, and where in it the history stands; the exchange counts as one of the run's, which is
        under way until it is settled."""
        chain, first = shape.chain, shape.first
        name = named if named is not None and NAME.fullmatch(named) else None
        known = self._named(agent, name) if name is not None else None
        anchor = self._anchor(shape, calls, first, known) if first is not None else None
        if anchor is not None:
            start, node, evidence = anchor
            node.continued += 1
            run, loop = node.run, node.loop
        else:
            start, loop = 0, loops.START
            run = known if known is not None else self._begin(agent)
            evidence = "name" if known is not None else "unknown" if first is not None else "first"
        new_from = 0
        if first is not None:
            new_from = next((at for at in range(len(chain) - 1, 0, -1) if chain[at] in run.nodes), 0)
            if new_from >= start and new_from:
                start, loop = new_from, run.nodes[chain[new_from]].loop
        self._see(run, name)
        self.begun(run)
        return Found(run, start, loop, new_from, evidence, run.offered(tools) if tools else frozenset())

    def begun(self, run: Run) -> None:
        """An exchange of the run is under way."""
        run.live += 1

    def settled(self, run: Run, tokens: int, cost: float) -> None:
        """It is over, and this is what it used."""
        run.settle(tokens, cost)
        run.live = max(run.live - 1, 0)
        if run.id in self._runs:
            self._shares.weigh(run, run.weight)
            self._shares.touch(run)
            if self._shares.full:
                self._make_room(run)

    def _named(self, agent: str, name: str) -> Run | None:
        """The agent's run of that name, or of that very id."""
        run = self._runs.get(name)
        return run if run is not None and run.agent == agent else self._names.get((agent, name))

    def left(self, sighting: Sighting, text: str, calls: Iterable[tuple[str | None, str, str]] = ()) -> None:
        """Says what the client was given, for one choice: its text, and its calls as (id, name, arguments).

        To be told as the client sees it (a refusal's text, no refused calls), before its last byte leaves.
        Not to be told of a request that was refused before it was forwarded.
        """
        run = sighting.run
        sent = [SentCall(*call) for call in calls]
        for call in sent:
            run.called(call)
        seed = seed_of(self._key, run.agent)
        point = answered(seed, sighting.head, text, sent)
        self.reached(run, sighting.head, sighting.loop, point, joins=sighting.assistant_seen)

    def reached(self, run: Run, head: bytes, loop: loops.LoopState, point: Answered, *, joins: bool) -> None:
        """The run went from the request ``head`` to ``point``. ``joins``: the request had an assistant turn."""
        if run.id not in self._runs:
            return
        self._add(run, head, loop, given=False, joins=joins)
        self._add(run, point.key, loop, given=True, ids=point.calls)

    def _anchor(self, shape: Shape, calls: CallKeys, first: int, named: Run | None) -> tuple[int, Node, str] | None:
        """How many messages are known by the strongest evidence, the node they lead to, and which it is."""
        chain, end = shape.chain, len(shape.speakers)
        known, found = 0, None
        for at in range(end, first, -1):
            goes_on = at < end and shape.is_assistants(at)
            nodes = [node for node in _all(self._by_history.get(chain[at])) if node.given or goes_on]
            if nodes:
                known, found = at, min(nodes, key=lambda node: (node.run is not named, node.continued))
                break
        for at in range(end - 1, max(known, first) - 1, -1):
            by_call = self._node_of_calls(calls(at)) if shape.is_assistants(at) else None
            if by_call is not None:
                return at + 1, by_call, "call_id"
        return (known, found, "history") if found is not None else None

    def _node_of_calls(self, calls: Sequence[bytes]) -> Node | None:
        for call in calls:
            nodes = _all(self._by_call.get(call))
            if nodes and all(node.run is nodes[-1].run for node in nodes):
                return nodes[-1]
        return None

    def _begin(self, agent: str) -> Run:
        now = self._clock()
        run = Run(self._new_id(), agent, now, now)
        self._runs[run.id] = run
        return run

    def _see(self, run: Run, name: str | None) -> None:
        run.step += 1
        run.seen = self._clock()
        if (
            name is not None
            and name not in self._runs
            and (run.agent, name) not in self._names
            and len(run.names) < NAMES_PER_RUN
        ):
            self._names[run.agent, name] = run
            run.names = (*run.names, name)
        self._shares.touch(run)
        if self._shares.full:
            self._make_room(run)

    def _add(
        self,
        run: Run,
        key: bytes,
        loop: loops.LoopState,
        *,
        given: bool,
        joins: bool = True,
        ids: tuple[bytes, ...] = (),
    ) -> None:
        known = run.nodes.get(key)
        if known is not None and (known.given or not given):
            return
        if known is not None:
            self._drop(known)
        node = Node(run, key, loop, given, ids)
        run.nodes[key] = node
        run.nodes_bytes += node.weight
        if joins:
            self._enter(self._by_history, key, node)
        for call in ids:
            self._enter(self._by_call, call, node)
        if len(run.nodes) > NODES_PER_RUN:
            self._drop(next(iter(run.nodes.values())))

    @staticmethod
    def _enter(index: dict[bytes, Node | tuple[Node, ...]], key: bytes, node: Node) -> None:
        known = index.get(key)
        index[key] = node if known is None else (*_all(known), node)[-TWINS_KEPT:]

    @staticmethod
    def _remove(index: dict[bytes, Node | tuple[Node, ...]], key: bytes, node: Node) -> None:
        known = index.get(key)
        if known is node:
            del index[key]
        elif isinstance(known, tuple):
            left = tuple([other for other in known if other is not node])
            index[key] = left[0] if len(left) == 1 else left

    def _drop(self, node: Node) -> None:
        del node.run.nodes[node.key]
        node.run.nodes_bytes -= node.weight
        self._leave(node)

    def _leave(self, node: Node) -> None:
        self._remove(self._by_history, node.key, node)
        for call in node.ids:
            self._remove(self._by_call, call, node)

    def _make_room(self, keep: Run) -> None:
        """Forgets what is too much, but never the run at hand."""
        while (gone := self._shares.excess(keep)) is not None:
            del self._runs[gone.id]
            for node in gone.nodes.values():
                self._leave(node)
            gone.nodes.clear()
            for name in gone.names:
                del self._names[gone.agent, name]
            if self._forgotten is not None:
                self._forgotten(gone)


def _all(nodes: Node | tuple[Node, ...] | None) -> tuple[Node, ...]:
    """The nodes of a place of an index, which is nearly always one."""
    if nodes is None:
        return ()
    return nodes if isinstance(nodes, tuple) else (nodes,)
