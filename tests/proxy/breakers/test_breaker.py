"""The circuit's table, walked event by event."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.breakers import breaker
from proxy.breakers.breaker import CLOSED, TABLE, Answer, Circuit, Event, State

OPEN_SECONDS = 60.0


def trip(circuit: Circuit, now: float) -> Circuit:
    return breaker.trip(
        circuit,
        now,
        OPEN_SECONDS,
        cause="loop_detected",
        reason="It repeats.",
        by="loop detector",
        evidence={"repeats": 3},
        proof=((b"pair", 4),),
    )


def kill(circuit: Circuit, now: float) -> Circuit:
    return breaker.kill(circuit, now, reason="Enough.", by="olga")


def release(circuit: Circuit, now: float) -> Circuit:
    return breaker.release(circuit, now, reason="Looked into it.", by="olga")


def ask(circuit: Circuit, now: float) -> Circuit:
    return breaker.ask(circuit, now, OPEN_SECONDS)[0]


MOVES: dict[Event, Callable[[Circuit, float], Circuit]] = {
    Event.ASK: ask,
    Event.ASK_LATER: lambda circuit, now: ask(circuit, max(now, circuit.until)),
    Event.PASSED: lambda circuit, now: breaker.passed(circuit),
    Event.CAME_TO_NOTHING: breaker.came_to_nothing,
    Event.TRIP: trip,
    Event.KILL: kill,
    Event.RELEASE: release,
}

STATES = {
    State.CLOSED: CLOSED,
    State.OPEN: trip(CLOSED, 0.0),
    State.HALF_OPEN: ask(trip(CLOSED, 0.0), OPEN_SECONDS),
    State.KILLED: kill(CLOSED, 0.0),
}


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_every_state_moves_as_the_table_says_and_else_stays(state: State, event: Event) -> None:
    circuit = STATES[state]
    assert circuit.state is state
    expected, _ = TABLE.get((state, event), (state, None))
    assert MOVES[event](circuit, 1.0).state is expected


def test_an_open_circuit_lets_one_probe_by_when_its_time_is_over() -> None:
    circuit = trip(CLOSED, 0.0)
    answers = []
    for now in (1.0, 59.9, 60.0, 60.1, 119.9):
        circuit, answer = breaker.ask(circuit, now, OPEN_SECONDS)
        answers.append(answer)
    assert answers == [Answer.REFUSE, Answer.REFUSE, Answer.PROBE, Answer.REFUSE, Answer.REFUSE]


def test_a_probe_that_nobody_settles_is_given_up() -> None:
    circuit = STATES[State.HALF_OPEN]
    assert breaker.ask(circuit, circuit.until, OPEN_SECONDS)[1] is Answer.PROBE


def test_a_probe_that_comes_to_nothing_leaves_its_place_to_the_next() -> None:
    circuit = breaker.came_to_nothing(STATES[State.HALF_OPEN], 61.0)
    assert breaker.ask(circuit, 61.0, OPEN_SECONDS)[1] is Answer.PROBE


def test_a_probe_that_trips_opens_for_another_full_time() -> None:
    circuit = trip(STATES[State.HALF_OPEN], 70.0)
    assert (circuit.state, circuit.until) == (State.OPEN, 130.0)


def test_an_operators_release_forgives_what_tripped() -> None:
    circuit = release(trip(CLOSED, 0.0), 5.0)
    assert (circuit.state, circuit.forgiven, circuit.proof) == (State.CLOSED, ((b"pair", 4),), ())
    assert (circuit.by, circuit.reason) == ("olga", "Looked into it.")


def test_a_release_after_a_kill_still_forgives_the_trip_before_it() -> None:
    assert release(kill(trip(CLOSED, 0.0), 1.0), 2.0).forgiven == ((b"pair", 4),)


def test_a_probe_that_passes_gets_no_pardon() -> None:
    assert breaker.passed(STATES[State.HALF_OPEN]) == CLOSED


@given(st.lists(st.tuples(st.sampled_from(Event), st.floats(0, 50)), max_size=30))
def test_only_a_release_ends_a_kill(events: list[tuple[Event, float]]) -> None:
    circuit, now, killed = CLOSED, 0.0, False
    for event, seconds in events:
        now += seconds
        circuit = MOVES[event](circuit, now)
        killed = (killed or event is Event.KILL) and event is not Event.RELEASE
        assert (circuit.state is State.KILLED) == killed
        assert breaker.decode(breaker.encode(circuit)) == circuit


def test_a_circuit_that_nobody_touched_takes_no_place() -> None:
    assert breaker.encode(CLOSED) is None
    assert breaker.decode(None) == CLOSED
