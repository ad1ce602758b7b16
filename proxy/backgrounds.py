"""What the model had seen, for the facts about its calls: kept compactly while the answer comes, opened when one does.

Nothing is kept and nothing computed unless a policy in force reads such facts (``call.provenance``, ``call.named``,
``call.mismatch``, ``call.unplaced``, ``request.orders``).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

from policies.facts.known import KnownTexts, candidates
from policies.facts.orders import GIVES_ORDERS, Passage, shipped_detector
from policies.facts.provenance import Background, Facts, certain_orders
from policies.facts.recorded_facts import noted
from policies.facts.replaced import ShownRuns
from policies.facts.seen import ToolTable, is_result, pieces_of
from policies.model import Mode, OrderPassage, Stage
from policies.service import PolicySet
from policies.text_rules import names_field, reads_field
from proxy.exchange import Exchange
from proxy.read_ahead import ReadAhead
from proxy.spool import Spool
from serving.settings import ToolSettings
from serving.wire.vocabulary import ToolCall

CALL_FACTS = ("call.provenance", "call.unplaced", "call.named", "call.mismatch")
ORDERS = "request.orders"
_OF_CALLS = (*CALL_FACTS, ORDERS)
_LATER = (Stage.REASONING, Stage.TOOL_CALL, Stage.OUTPUT, Stage.RESPONSE)
_OPEN = 4  # histories that stay open between two calls, of all exchanges together
_LARGE = 64 * 1024  # bytes of a history that is looked at beside the event loop
_KNOWN_TEXTS = 4096
_SHORT = 64  # characters of a text that is looked at again rather than remembered


class Histories:
    """What all judges of a process share. ``folder``: where long histories wait (None: the system's folder for such
    files)."""

    def __init__(self, tools: Mapping[str, ToolSettings] | None = None, folder: Path | None = None) -> None:
        self.table = ToolTable(dict(tools or {}))
        self.spool = Spool(folder)
        self._open: OrderedDict[str, Background] = OrderedDict()
        self._known: OrderedDict[bytes, tuple[Passage, ...]] = OrderedDict()
        self.texts = KnownTexts(self._passages)
        self.ahead = ReadAhead(self.texts)
        self._shown = ShownRuns()

    def close(self) -> None:
        self.ahead.close()
        self.spool.close()

    async def background(self, x: Exchange) -> Background:
        known = self._open.get(x.id)
        if known is None:
            await self.ahead.end(x.id)
            size = x.history.size if x.history is not None else x.request_bytes
            known = self._made(x) if size < _LARGE else await asyncio.to_thread(self._made, x)
            self._open[x.id] = known
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        return known

    def forget(self, x: Exchange) -> None:
        self._open.pop(x.id, None)
        if x.history is not None:
            x.history.release()
            x.history = None

    def _made(self, x: Exchange) -> Background:
        shown = self._shown.of(x.sighting.run.id)
        if x.history is None:
            return Background(x.request.messages, x.request.tools, self.table, self.texts, shown=shown)
        history = x.history.read()
        return Background(history.messages, history.tools, self.table, self.texts, shown=shown)

    def show(self, x: Exchange, background: Background) -> None:
        """What the model had seen is part of what its run has shown."""
        run = x.sighting.run.id
        shown = self._shown.of(run)
        background.show(shown)
        self._shown.keep(run, shown)

    def _passages(self, text: str) -> Sequence[Passage]:
        """What orders a text gives is remembered longer than the text is."""
        if len(text) < _SHORT:
            return candidates(text)
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = tuple(candidates(text))
            while len(self._known) > _KNOWN_TEXTS:
                self._known.popitem(last=False)
        return found


class Backgrounds:
    """What one policy set reads of them. Where only policies that record read it about calls, these are ``behind``:
    they are asked when the answer is over, so that they delay nothing; ``before`` are the others."""

    def __init__(self, policies: PolicySet, histories: Histories | None = None) -> None:
        self._histories = histories or Histories()
        asked = policies.asked(Stage.TOOL_CALL)
        readers = {name for name, reads in asked.items() if any(names_field(reads, field) for field in _OF_CALLS)}
        enforced = any(
            policies.modes[name] is Mode.ENFORCE and any(reads_field(reads, field) for field in _OF_CALLS)
            for name, reads in asked.items()
        )
        self._for_calls = bool(readers) or enforced
        self.behind = frozenset() if enforced else frozenset(readers)
        self.before = frozenset(asked) - self.behind
        self._stages = frozenset(stage for stage in Stage if policies.reads_field(stage, ORDERS))
        self._wanted = self._for_calls or any(stage in self._stages for stage in _LATER)
        if self._wanted or self._stages:
            shipped_detector()  # made before the first request, not while one waits

    @property
    def table(self) -> ToolTable:
        return self._histories.table

    def keep(self, x: Exchange) -> None:
        """The request of ``x`` is on its way; what it said is needed later."""
        if self._wanted and not (x.request.stored or x.fetched):
            x.history = self._histories.spool.keep(x.request)
            if self._for_calls and not self.behind:
                self._histories.ahead.begin(x.id, [message.text for message in x.news if is_result(message)])

    def release(self, x: Exchange) -> None:
        """The exchange is over."""
        if self._wanted:
            self._histories.forget(x)

    async def orders(self, x: Exchange, stage: Stage) -> Sequence[OrderPassage]:
        """The passages that a policy at ``stage`` is shown: of new results before the request is sent, else of all."""
        if stage not in self._stages or (stage is Stage.TOOL_CALL and not self._for_calls):
            return ()
        if stage is not Stage.REQUEST:
            found = (await self._histories.background(x)).orders
            return found if stage is Stage.TOOL_CALL else [order for order in found if order.score >= GIVES_ORDERS]
        first = x.message_count - len(x.news)
        pieces = [piece for piece in pieces_of(x.request.messages, self.table) if piece.message >= first]
        if sum(len(piece.text) for piece in pieces) < _LARGE:
            return certain_orders(pieces, self._histories.texts)
        return await asyncio.to_thread(certain_orders, pieces, self._histories.texts)

    async def call(self, x: Exchange, call: ToolCall, arguments: Mapping[str, object] | None) -> Facts | None:
        """The facts about a call; None if no policy reads them."""
        if not self._for_calls:
            return None
        background = await self._histories.background(x)
        said = x.seen.said_before(call.choice, call.index)
        if background.size < _LARGE:
            return self._noted(background, x, call, arguments, said)
        return await asyncio.to_thread(self._noted, background, x, call, arguments, said)

    def _noted(
        self, background: Background, x: Exchange, call: ToolCall, arguments: Mapping[str, object] | None, said: str
    ) -> Facts:
        facts = background.facts(call.name, arguments, call.arguments, said)
        self._histories.show(x, background)
        if x.rewritten or x.fetched:
            return facts  # what is on record is not what they were found in
        return facts._replace(note=noted(background, facts, self.table, x.sighting.new_from))
