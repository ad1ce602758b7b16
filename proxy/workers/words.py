"""What a worker and its parent say to each other.

Questions (they are answered) and notices of a worker are one union; the parent's notices are another. What a
question is answered with stands beside it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from proxy.breakers.loops import LoopState
from proxy.breakers.store import Charge
from proxy.history import Step
from proxy.run import Recent
from proxy.shape import Answered
from serving.wire.message_texts import TextChange
from serving.wire.request import SentCall


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The first word of a worker. Answered by :class:`Welcome`."""

    token: str
    number: int


class Welcome(msgspec.Struct, frozen=True):
    """``key`` keys the digests of the runs' histories."""

    key: bytes


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The worker takes connections. ``policies``: those in force, in one line."""

    policies: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The worker cannot start, and why."""

    reason: str


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """The worker lives. ``trouble``: why its journal cannot be written."""

    trouble: str | None


# The store (``proxy.breakers.store.Store``).


class Read(msgspec.Struct, frozen=True, tag="read"):
    keys: list[str]


class Swap(msgspec.Struct, frozen=True, tag="swap"):
    key: str
    old: bytes | None
    new: bytes | None
    seconds: float | None


class Hold(msgspec.Struct, frozen=True, tag="hold"):
    charges: list[Charge]


class Settle(msgspec.Struct, frozen=True, tag="settle"):
    """A notice: nobody waits for it."""

    held: list[Charge]
    spent: list[float]


class Used(msgspec.Struct, frozen=True, tag="used"):
    charges: list[Charge]


# The runs (``proxy.runs.RunBook``).


class Find(msgspec.Struct, frozen=True, tag="find"):
    """``proxy.shape.Shape`` and the keys of the calls of each message that has some; the offered tools' digests, where
    they are watched. Answered by :class:`Place`."""

    agent: str
    chain: bytes
    speakers: bytes
    calls: dict[int, list[bytes]]
    named: str | None
    tools: dict[str, str] = {}


class RunNow(msgspec.Struct, frozen=True):
    """A run as it stands (``proxy.runs.Run``)."""

    id: str
    agent: str
    started: float
    seen: float
    step: int
    tokens: int
    cost: float
    tool_calls: int
    tripped: str | None
    findings: tuple[str, ...]
    checks: list[dict[str, Any]]
    loop: LoopState
    recent: tuple[Recent, ...]
    changes: dict[str, TextChange] = {}


class Place(msgspec.Struct, frozen=True):
    """``proxy.runs.Found``, and the circuits that an exchange of the run asks first, as they stand now
    (``proxy.breakers.admission.circuit_keys``)."""

    run: RunNow
    start: int
    loop: LoopState
    new_from: int
    evidence: str
    circuits: list[bytes | None]
    changed_tools: list[str] = []


class WentOn(msgspec.Struct, frozen=True, tag="went_on"):
    run: str
    loop: LoopState
    steps: tuple[Step, ...]


class Left(msgspec.Struct, frozen=True, tag="left"):
    run: str
    head: bytes
    loop: LoopState
    joins: bool
    point: Answered
    calls: list[SentCall]


class Began(msgspec.Struct, frozen=True, tag="began"):
    """Another exchange of a run that is known; one that was found has begun with that."""

    run: str


class Spent(msgspec.Struct, frozen=True, tag="spent"):
    """An exchange of the run is over, and has used this."""

    run: str
    tokens: int
    cost: float


class Noted(msgspec.Struct, frozen=True, tag="noted"):
    """A finding of a run, what a check said of it, or what was changed in its messages; the parent tells it to the
    other workers."""

    run: str
    finding: str | None = None
    check: dict[str, Any] | None = None
    changes: dict[str, TextChange] | None = None


class Tripped(msgspec.Struct, frozen=True, tag="tripped"):
    run: str
    cause: str | None


OfRun = WentOn | Left | Began | Spent | Noted | Tripped


# The alerts (``tracing.alerts.AlertBook``).


class Fire(msgspec.Struct, frozen=True, tag="fire"):
    cause: str
    subject: str
    agent: str
    what: dict[str, Any]


class Resolve(msgspec.Struct, frozen=True, tag="resolve"):
    cause: str
    subject: str
    agent: str


# OPA servers of the parent's (``proxy.workers.bundles``).


class Serve(msgspec.Struct, frozen=True, tag="serve"):
    """A server is wanted with the bundle as it is on disk now. Answered by the notice :class:`Served` with this
    ``number``: one may take long to start."""

    number: int


class DoneWith(msgspec.Struct, frozen=True, tag="done_with"):
    """The worker asks the server at ``url`` no more."""

    url: str


# What waits for a person (``proxy.approvals``).


class Waits(msgspec.Struct, frozen=True, tag="waits"):
    """Something waits for approval: what operators are shown of it."""

    shown: dict[str, Any]


class WaitsNoMore(msgspec.Struct, frozen=True, tag="waits_no_more"):
    name: str


class Approved(msgspec.Struct, frozen=True, tag="approved"):
    """What became of :class:`Approve`. ``done``: what the operator is told; else ``first``: who had decided, and how;
    or ``trouble``: why it could not be written down. With none of these nothing of that name waits."""

    number: int
    done: dict[str, Any] | None = None
    first: tuple[str, str] | None = None
    trouble: str | None = None


# The model server's time (``proxy.server_time``).


class Busy(msgspec.Struct, frozen=True, tag="busy"):
    """How many exchanges of the worker are with the model server now."""

    exchanges: int


FromWorker = (
    Hello
    | Ready
    | Failed
    | Beat
    | Read
    | Swap
    | Hold
    | Settle
    | Used
    | Find
    | WentOn
    | Left
    | Began
    | Spent
    | Noted
    | Tripped
    | Fire
    | Resolve
    | Busy
    | Serve
    | DoneWith
    | Waits
    | WaitsNoMore
    | Approved
)


class Cut(msgspec.Struct, frozen=True, tag="cut"):
    """An operator killed a run, an agent, or (both None) everything."""

    agent: str | None
    run: str | None


class Others(msgspec.Struct, frozen=True, tag="others"):
    """How many exchanges of the other workers are with the model server now."""

    exchanges: int


class Approve(msgspec.Struct, frozen=True, tag="approve"):
    """An operator approves or denies what waits in this worker. Answered by the notice :class:`Approved` with this
    ``number``: what is written to a disk may take longer than an answer may."""

    number: int
    name: str
    approve: bool
    operator: str
    reason: str


class Served(msgspec.Struct, frozen=True, tag="served"):
    """``problem``: why there is no server."""

    number: int
    url: str = ""
    token: str = ""
    problem: str | None = None


FromParent = Cut | Noted | Others | Approve | Served
