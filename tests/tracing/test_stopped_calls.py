"""Which calls count as kept from the client, in listings and spans."""

from __future__ import annotations

import pytest

from tracing.exchange import Exchange
from tracing.records import CallOutcome


@pytest.mark.parametrize("outcome", ["denied", "malformed", "held_bytes", "terminated", "unrecorded"])
def test_a_call_that_did_not_reach_the_client_is_a_denial_with_its_rule(outcome: str) -> None:
    exchange = Exchange("x")
    exchange.add(CallOutcome(time_ns=1, exchange="x", index=0, outcome="allowed"))
    exchange.add(CallOutcome(time_ns=2, exchange="x", index=1, outcome=outcome, rule="some/rule"))
    assert exchange.denied and exchange.rule == "some/rule"


def test_a_call_that_was_refused_for_want_of_a_record_stands_once_as_what_happened() -> None:
    exchange = Exchange("x")
    exchange.add(CallOutcome(time_ns=1, exchange="x", index=0, outcome="allowed"))
    exchange.add(CallOutcome(time_ns=1, exchange="x", index=1, outcome="allowed"))
    exchange.add(CallOutcome(time_ns=2, exchange="x", index=0, outcome="unrecorded", rule="interlock/record"))
    assert [(call.index, call.outcome) for call in exchange.calls] == [(1, "allowed"), (0, "unrecorded")]
