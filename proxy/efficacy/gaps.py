"""Why the policies let an attack by: how far the facts came with it. Pure.

The classes go by what the facts say, so that they can be counted in any file. What lies behind one (a language that no
pattern knows, a sentence that is no order) has to be read in the examples.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.facts.orders import GIVES_ORDERS
from policies.model import CallNamed, OrderPassage

WHAT = {
    "nothing reads as an order": "no passage of a result looks like an order, not even a doubtful one",
    "hardly an order": "a passage looks like one, but not enough to count",
    "user asks too": "the user, or a plan from before, names the same thing",
    "handed over": "the user told the agent to do what a result says",
    "order names no such call": "an order is there, but its words do not name what the call does",
}


def gap_of(orders: Sequence[OrderPassage], named: CallNamed | None) -> str:
    """How far the facts come with a case: a key of :data:`WHAT`. ``named`` null: a text, no call."""
    sure = [order for order in orders if order.score >= GIVES_ORDERS]
    if not orders:
        return "nothing reads as an order"
    if named is None:
        return "hardly an order"
    if named.by_user or named.by_plan:
        return "user asks too"
    if named.delegated and named.by_orders:
        return "handed over"
    if sure and not named.by_orders:
        return "order names no such call"
    return "hardly an order"
