"""The breaker: stops a run, an agent or all of them, and lets them go again.

How to think about it. A *circuit* belongs to one scope: ``all``, an agent or a run. It is a value: every
transition takes a circuit and the time and returns the next circuit, so whoever stores it decides how it is
shared. A circuit that nobody ever touched is CLOSED.

* CLOSED lets every exchange by.
* OPEN refuses every exchange. It was tripped by a detector and says why, on what evidence and until when.
* HALF_OPEN lets one exchange by, the probe, and refuses all others until the probe is settled. If it passes,
  the circuit closes; if its detector trips again, the circuit opens for another full time; if it comes to
  nothing (refused elsewhere, upstream down), the next exchange may be the probe. A probe that nobody settles
  is given up after ``open_seconds``.
* KILLED refuses every exchange, with another status, until an operator releases it. No detector and no time
  changes that; killing wins over every other state.

Two kinds of transition: by an *exchange* (ask, and what becomes of a probe) and by a *cause* (trip, kill,
release). :data:`TABLE` lists all of them; an event that a state does not list leaves it as it is. Asking an
OPEN circuit is the only one that looks at the clock: before ``until`` it is ``ASK``, from then on
``ASK_LATER``; for a HALF_OPEN one ``until`` is when its probe is given up.

Who may release: an operator always, by :func:`release`. A tripped circuit also releases itself by a probe. What
an operator released is *forgiven*: the repeats that tripped the run do not count again, or its next request,
which brings the same history, would trip at once. A probe by time gets no such pardon: it must bring something
new.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    KILLED = "killed"


class Event(StrEnum):
    ASK = "ask"
    ASK_LATER = "ask_later"
    PASSED = "passed"
    CAME_TO_NOTHING = "came_to_nothing"
    TRIP = "trip"
    KILL = "kill"
    RELEASE = "release"


class Answer(StrEnum):
    """What an exchange that asks is told."""

    PASS = "pass"
    PROBE = "probe"
    REFUSE = "refuse"


Evidence = dict[str, str | int | float]
Proof = tuple[tuple[bytes, int], ...]


class Circuit(msgspec.Struct, frozen=True):
    """``cause`` (``loop``, ``killed``, a detector's own), ``reason`` (one sentence for people), ``evidence``
    and ``by`` (a detector or an operator) are those of the last trip, kill or release. ``since``, ``until``:
    clock seconds. ``proof``: pairs and how often each was there at a trip for a loop; ``forgiven``: the same,
    after a release."""

    state: State = State.CLOSED
    cause: str = ""
    reason: str = ""
    by: str = ""
    since: float = 0.0
    until: float = 0.0
    evidence: Evidence = {}
    proof: Proof = ()
    forgiven: Proof = ()


CLOSED = Circuit()

TABLE: dict[tuple[State, Event], tuple[State, Answer | None]] = {
    (State.CLOSED, Event.ASK): (State.CLOSED, Answer.PASS),
    (State.CLOSED, Event.ASK_LATER): (State.CLOSED, Answer.PASS),
    (State.OPEN, Event.ASK): (State.OPEN, Answer.REFUSE),
    (State.OPEN, Event.ASK_LATER): (State.HALF_OPEN, Answer.PROBE),
    (State.HALF_OPEN, Event.ASK): (State.HALF_OPEN, Answer.REFUSE),
    (State.HALF_OPEN, Event.ASK_LATER): (State.HALF_OPEN, Answer.PROBE),
    (State.KILLED, Event.ASK): (State.KILLED, Answer.REFUSE),
    (State.KILLED, Event.ASK_LATER): (State.KILLED, Answer.REFUSE),
    (State.HALF_OPEN, Event.PASSED): (State.CLOSED, None),
    (State.HALF_OPEN, Event.CAME_TO_NOTHING): (State.OPEN, None),
    (State.CLOSED, Event.TRIP): (State.OPEN, None),
    (State.OPEN, Event.TRIP): (State.OPEN, None),
    (State.HALF_OPEN, Event.TRIP): (State.OPEN, None),
    (State.CLOSED, Event.KILL): (State.KILLED, None),
    (State.OPEN, Event.KILL): (State.KILLED, None),
    (State.HALF_OPEN, Event.KILL): (State.KILLED, None),
    (State.KILLED, Event.KILL): (State.KILLED, None),
    (State.OPEN, Event.RELEASE): (State.CLOSED, None),
    (State.HALF_OPEN, Event.RELEASE): (State.CLOSED, None),
    (State.KILLED, Event.RELEASE): (State.CLOSED, None),
}


def ask(circuit: Circuit, now: float, open_seconds: float) -> tuple[Circuit, Answer]:
    """Whether an exchange may pass, and the circuit after it asked."""
    event = Event.ASK_LATER if now >= circuit.until else Event.ASK
    state, answer = TABLE[circuit.state, event]
    assert answer is not None
    if answer is Answer.PROBE:
        return msgspec.structs.replace(circuit, state=state, until=now + open_seconds), answer
    return circuit, answer


def passed(circuit: Circuit) -> Circuit:
    """The probe was settled and tripped nothing."""
    state = _next(circuit, Event.PASSED)
    return circuit if state is None else Circuit(state, forgiven=circuit.forgiven)


def came_to_nothing(circuit: Circuit, now: float) -> Circuit:
    """The probe showed nothing; the next exchange may be one."""
    state = _next(circuit, Event.CAME_TO_NOTHING)
    return circuit if state is None else msgspec.structs.replace(circuit, state=state, until=now)


def trip(
    circuit: Circuit,
    now: float,
    open_seconds: float,
    *,
    cause: str,
    reason: str,
    by: str,
    evidence: Evidence,
    proof: Proof = (),
) -> Circuit:
    """Opens the circuit for ``open_seconds`` from now."""
    state = _next(circuit, Event.TRIP)
    if state is None:
        return circuit
    return Circuit(state, cause, reason, by, now, now + open_seconds, evidence, proof, circuit.forgiven)


def kill(circuit: Circuit, now: float, *, reason: str, by: str) -> Circuit:
    """The kill switch. What tripped the circuit before stays its proof, to be forgiven with the release."""
    state = _next(circuit, Event.KILL)
    if state is None:
        return circuit
    return Circuit(state, "killed", reason, by, now, now, {}, circuit.proof, circuit.forgiven)


def release(circuit: Circuit, now: float, *, reason: str, by: str) -> Circuit:
    """An operator lets the scope go on."""
    state = _next(circuit, Event.RELEASE)
    if state is None:
        return circuit
    forgiven = circuit.proof or circuit.forgiven
    return Circuit(state, "released", reason, by, now, now, {}, forgiven=forgiven)


def _next(circuit: Circuit, event: Event) -> State | None:
    state, _ = TABLE.get((circuit.state, event), (None, None))
    return state


def encode(circuit: Circuit) -> bytes | None:
    """For a store; None for a circuit that nobody ever touched."""
    return None if circuit == CLOSED else msgspec.msgpack.encode(circuit)


_decoder = msgspec.msgpack.Decoder(Circuit)


def decode(value: bytes | None) -> Circuit:
    return CLOSED if value is None else _decoder.decode(value)
