"""Masks in answers: what of a decision's redactions can be made, in a text or in a call.

A text is masked where it waits: where none of what is named has left, and each match in it is known whole. A call is
masked in its arguments, and asked about again as long as a pattern that was found in it is found in the rest, because
not every hit of a pattern is told at once. What cannot be masked is refused, as if it were denied.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from policies.answer_redaction import keys_of, mask_arguments, masks_of_response, masks_of_text, wanted
from policies.model import Action, CallFacts, Decision, Signal
from policies.redaction import CHANGES, CannotRedact
from proxy.exchange import ChoiceSeen, Exchange
from proxy.gated_text import Found
from serving.wire.masking import Masks, Surface
from serving.wire.vocabulary import ToolCall

_ROUNDS = 8
_KEY_LINE = re.compile(r"-----(BEGIN|END) [A-Z0-9 ]{0,99}PRIVATE KEY")


class TextMasking:
    """What is masked of a text that was ``found`` in a choice. ``masks``: None until every match is known whole;
    ``problem``: why it cannot be."""

    def __init__(self, x: Exchange, choice: int, found: Found) -> None:
        self._seen = x.seen.choice(choice)
        self._found = found
        self.masks: Masks | None = None
        self.problem = ""

    def of(self, decision: Decision) -> tuple[str, ...]:
        """The words that ``decision`` takes away."""
        try:
            self.masks = self._masks(decision)
        except CannotRedact as problem:
            self.problem = str(problem)
        said = self._said
        return tuple(said[one.start : one.end].decode("utf-8", "surrogatepass") for one in self.masks or ())

    def made(self) -> None:
        """The client gets it so."""
        self._seen.mask(self._found.surface, self.masks or ())

    @property
    def _said(self) -> bytearray:
        return self._seen.text if self._found.surface == "text" else self._seen.reasoning

    def _masks(self, decision: Decision) -> Masks | None:
        found = self._found
        if not found.maskable:
            raise CannotRedact(f"{decision.rule} masks text that does not wait")
        if any((redaction.start or 0) < found.left for _, redaction in wanted(decision)):
            raise CannotRedact(f"{decision.rule} masks what has left")
        if not found.settled:
            return None
        return masks_of_text(decision, bytes(self._said[: found.size]), found.left, found.hits)


class ResponseMasking:
    """What is masked of a choice of a whole answer, at the stage ``response``."""

    def __init__(self, seen: ChoiceSeen) -> None:
        self._said: dict[Surface, bytes] = {"text": bytes(seen.text), "reasoning": bytes(seen.reasoning)}
        self._seen = seen
        self._masks: dict[Surface, Masks] = {}
        self.problem = ""

    def of(self, decision: Decision) -> tuple[str, ...]:
        """The words that ``decision`` takes away."""
        try:
            self._masks = masks_of_response(decision, self._said)
        except CannotRedact as problem:
            self.problem = str(problem)
        return tuple(
            self._said[surface][one.start : one.end].decode("utf-8", "surrogatepass")
            for surface, masks in self._masks.items()
            for one in masks
        )

    def made(self) -> None:
        """The client gets it so."""
        for surface, masks in self._masks.items():
            self._seen.mask(surface, masks)


async def masked_call(
    call: ToolCall,
    facts: CallFacts,
    decision: Decision,
    *,
    signals: Callable[[CallFacts], list[Signal]],
    facts_of: Callable[[ToolCall], CallFacts],
    decide: Callable[[CallFacts], Awaitable[Decision]],
) -> tuple[ToolCall, Decision]:
    """The call with what ``decision`` (about its ``facts``) masks, and the last decision about it: if that refuses, so
    is the call. Raises :class:`CannotRedact`."""
    known = {(one.set, one.id) for one in signals(facts)}
    for _ in range(_ROUNDS):
        made = mask_arguments(decision, call.arguments)
        for place in made.places:
            name, value = _at(facts.arguments, place)
            if isinstance(value, str) and _KEY_LINE.findall(value)[-1:] == ["BEGIN"]:
                raise CannotRedact(f"{decision.rule} masks the beginning of a key that may go on elsewhere")
            if name and signals(CallFacts(name=call.name, raw=name, arguments={"": name})):
                raise CannotRedact(f"{decision.rule} masks a value whose name gives it away")
        if made.text == call.arguments:
            return call, decision
        call = ToolCall(call.choice, call.index, call.id, call.name, made.text, call.complete)
        facts = facts_of(call)
        if facts.arguments is None:
            raise CannotRedact(f"{decision.rule} leaves no arguments")
        if known.isdisjoint((one.set, one.id) for one in signals(facts)):
            return call, decision
        after = await decide(facts)
        if after.action not in CHANGES:
            return call, decision if after.action in (Action.ALLOW, Action.FLAG) else after
        decision = after
    raise CannotRedact(f"{decision.rule} finds more than can be masked")


def _at(arguments: Any, place: str) -> tuple[str | None, Any]:
    """The name (None in a list) of the value at a JSON pointer, and the value."""
    *above, last = keys_of(place)
    for step in above:
        arguments = arguments[int(step) if isinstance(arguments, list) else step]
    if isinstance(arguments, dict):
        return last, arguments[last]
    return None, arguments[int(last)]
