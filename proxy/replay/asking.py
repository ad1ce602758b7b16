"""One stored exchange while policies are asked about it: what was recorded at each place, what the model had seen, and
what was found by now.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import msgspec
from pydantic import ValidationError

from policies.facts.known import MOST_BYTES, KnownTexts
from policies.facts.orders import GIVES_ORDERS
from policies.facts.provenance import Background, Facts, certain_orders
from policies.facts.recorded_facts import Note, facts_of, found_as_now, orders_of, read_note, tell, was_replaced
from policies.facts.seen import NO_SETTINGS, ToolTable, pieces_of
from policies.inputs import HISTORY_FIELDS
from policies.model import TEXT_STAGES, Decision, Finding, OrderPassage, RunFacts, Stage
from proxy.replay.stored import REPLACED, Stored
from tracing.records import Decided

_RUNS = 64
"""Runs whose last history is kept open."""


class Histories:
    """What models had seen, each looked at in the light of what its run had shown a turn before. ``tools`` is what the
    settings say of tools."""

    def __init__(self, tools: ToolTable = NO_SETTINGS, most_bytes: int = MOST_BYTES) -> None:
        self.tools = tools
        self.texts = KnownTexts(most_bytes=most_bytes)
        self._of_runs: OrderedDict[str, Background] = OrderedDict()

    def notes(self, x: Stored) -> dict[str, Note]:
        """What was found about the calls of ``x`` when it was live: place → that, if it would be found again just so.
        What it says of new texts is known from now on."""
        notes: dict[str, Note] = {}
        if any(name in x.unknown for name in HISTORY_FIELDS):
            return notes
        for one in x.decided:
            plain = one.moment.get("history")
            note = read_note(plain, self.tools) if plain is not None and "history" not in one.altered else None
            if note is not None:
                notes[one.surface] = note
                tell(note, x.request.messages, self.texts)
            elif was_replaced(plain):
                x.unknown |= dict.fromkeys(HISTORY_FIELDS, REPLACED)
        return notes

    def looked_alike(self, x: Stored) -> bool:
        """Whether the history of ``x`` was looked at, and as it would be now."""
        notes = [one.moment["history"] for one in x.decided if "history" in one.moment]
        return bool(notes) and all(found_as_now(note, self.tools) for note in notes)

    def orders(self, x: Stored, note: Note) -> Sequence[OrderPassage] | None:
        """The passages that give orders in what the model had seen; None if that takes a closer look."""
        return orders_of(note, x.request.messages, self.tools, self.texts)

    def background(self, x: Stored) -> Background:
        """What the model had seen before its answer."""
        before = self._of_runs.pop(x.run.id, None)
        found = Background(x.request.messages, x.request.tools, self.tools, self.texts, before)
        self._of_runs[x.run.id] = found
        if len(self._of_runs) > _RUNS:
            self._of_runs.popitem(last=False)
        return found


class Asking:
    """One exchange while it is asked about: what was recorded at each place, and what was found by now."""

    def __init__(self, x: Stored, histories: Histories) -> None:
        self.x = x
        self._histories = histories
        self._then: dict[tuple[str, str], list[Decided]] = {}
        for decided in x.decided:
            self._then.setdefault((decided.stage, decided.surface), []).append(decided)
        self._findings = list(x.run.findings)
        self._notes = histories.notes(x)
        self._orders: Sequence[OrderPassage] | None = None

    @cached_property
    def background(self) -> Background:
        """What the model had seen."""
        return self._histories.background(self.x)

    @cached_property
    def looked_alike(self) -> bool:
        """Whether the history was looked at then as it would be now."""
        return self._histories.looked_alike(self.x)

    def noted(self, place: str) -> Facts | None:
        """What was found about a call then, if it would be found again just so."""
        note = self._notes.get(place)
        return facts_of(note) if note is not None else None

    @property
    def _all_orders(self) -> Sequence[OrderPassage]:
        if self._orders is None:
            note = next(iter(self._notes.values()), None)
            known = self._histories.orders(self.x, note) if note is not None else None
            self._orders = known if known is not None else self.background.orders
        return self._orders

    def orders(self, stage: Stage) -> Sequence[OrderPassage]:
        """The passages that a policy at ``stage`` is shown, as the live judge shows them."""
        if stage is not Stage.REQUEST:
            found = self._all_orders
            return found if stage is Stage.TOOL_CALL else [order for order in found if order.score >= GIVES_ORDERS]
        first = self.x.message_count - len(self.x.news)
        pieces = pieces_of(self.x.request.messages, self._histories.tools)
        return certain_orders([piece for piece in pieces if piece.message >= first], self._histories.texts)

    def then(self, stage: Stage, place: str) -> Decided | None:
        """The next decision that was recorded for this place; what is masked of it counts as not there."""
        waiting = self._then.get((stage.value, place))
        if not waiting:
            return None
        then = waiting.pop(0)
        if not then.altered:
            return then
        return msgspec.structs.replace(then, moment={k: v for k, v in then.moment.items() if k not in then.altered})

    def answers(
        self, stage: Stage, place: str, then: Decided | None, digest: str, wanted: frozenset[str]
    ) -> dict[str, list[Finding]]:
        """What those of ``wanted`` said of this place that were asked then, as they are now: the same bundle with the
        same data. Of a text, which is asked about as it comes, what they said ``then``."""
        every = [one for one in self.x.decided if (one.stage, one.surface) == (stage.value, place)]
        found: dict[str, list[Finding]] = {}
        for decided in every if stage not in TEXT_STAGES else [then] if then is not None else []:
            said = decided.decision
            if said.get("bundle") != digest:
                continue
            failed = {error.get("policy") for error in said.get("errors") or ()}
            for policy in wanted.intersection(said.get("asked") or ()) - failed:
                with suppress(ValidationError):
                    found[policy] = [
                        Finding.model_validate(entry["finding"])
                        for entry in said.get("findings") or ()
                        if entry["policy"] == policy
                    ]
        return found

    def run(self, moment: Mapping[str, Any]) -> RunFacts:
        if "run" in moment:
            return RunFacts.model_validate(moment["run"])
        return self.x.run.model_copy(update={"findings": list(self._findings)})

    def found(self, decision: Decision) -> None:
        for entry in decision.findings:
            name = f"{entry.policy}/{entry.finding.id}"
            if name not in self._findings:
                self._findings.append(name)
