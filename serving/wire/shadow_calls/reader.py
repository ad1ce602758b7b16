"""Reads the tool calls in one flowing surface, a choice's text or its reasoning.

    reader = ShadowReader(frozenset({"get_weather"}))
    state = reader.feed('<tool_call>{"name": "get_weather", ')   # opened_at: 0
    state = reader.feed('"arguments": {}}</tool_call>')          # calls: [ShadowCall(name="get_weather", …)]
    state = reader.end()

A call that an opener announces is found whatever its name, and can be held from ``opened_at`` on. One without (bare
JSON, a Python list of calls) counts only if its tool was offered, and is known when it is complete. The work is
linear in the text, and text that has none of the characters that begin a call costs one look.
"""

from __future__ import annotations

import re

import msgspec

from serving.wire.shadow_calls import forms, markers
from serving.wire.shadow_calls.block import LONGEST_CALL, SHOWN_OF_LONGEST, Block, ShadowCall, call_of, cut_off
from serving.wire.shadow_calls.json_objects import FlowingObjects, FoundObject
from serving.wire.shadow_calls.python_calls import FlowingCalls


class ShadowState(msgspec.Struct, frozen=True):
    """``opened_at``: the byte from which on the text is, or may become, a call that an opener announces; None if
    nothing needs to be held. ``calls``: those that have become known since the last state, in the order of their
    ends."""

    opened_at: int | None = None
    calls: tuple[ShadowCall, ...] = ()


STRETCH = 1024
"""Bytes that are read at once."""

MOST_OPEN = 8
"""Openers whose calls are read at a time. What more of them push out is reported as it stands."""

_QUIET = ShadowState()


class ShadowReader:
    """One surface. ``offered`` are the names of the request's tools."""

    def __init__(self, offered: frozenset[str]) -> None:
        self._offered = offered
        self._data = bytearray()
        self._base = 0
        self._scanned = 0
        self._open: list[Block] = []
        self._objects = FlowingObjects()
        self._lists = FlowingCalls(offered)
        self._idle = True

    @property
    def idle(self) -> bool:
        """No call has begun, or may have: a text without ``markers.TRIGGER`` changes nothing but its length."""
        return self._idle

    @property
    def pending(self) -> int:
        """Bytes of text that are kept."""
        return len(self._data)

    def feed(self, text: str) -> ShadowState:
        if self._idle and markers.TRIGGER.search(text) is None:
            self._base += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
            return _QUIET
        if self._idle:
            self._scanned = self._base
            self._objects.skip(self._base)
            self._lists.skip(self._base)
        raw = text.encode("utf-8", "surrogatepass")
        if len(raw) <= STRETCH:
            self._data += raw
            return self._read(False)
        calls: list[ShadowCall] = []
        for begin in range(0, len(raw), STRETCH):  # a place is looked at from few openers at once
            self._data += raw[begin : begin + STRETCH]
            state = self._read(False)
            calls += state.calls
        return ShadowState(state.opened_at, tuple(calls))

    def end(self) -> ShadowState:
        """What the end of the text completes or leaves incomplete. Nothing is held afterwards."""
        state = self._read(True) if not self._idle else _QUIET
        self._data.clear()
        self._open.clear()
        self._idle = True
        return ShadowState(None, state.calls)

    def _read(self, final: bool) -> ShadowState:
        data, base = self._data, self._base
        end = base + len(data)
        calls: list[ShadowCall] = []
        opened_at = self._blocks(end, final, calls)
        objects = self._objects.advance(data, base, end)
        lists = self._lists.advance(data, base, end)
        if objects or lists:
            self._bare(objects, lists, calls)
        if final:
            self._cut_off(end, calls)
        else:
            if len(data) > LONGEST_CALL:
                self._bound(end, calls)
            self._forget(end)
        if not calls:
            return _QUIET if opened_at is None else ShadowState(opened_at)
        calls.sort(key=lambda call: (call.end, call.start))
        return ShadowState(opened_at, tuple(calls))

    def _bare(self, objects: list[FoundObject], lists: list[tuple[int, int]], calls: list[ShadowCall]) -> None:
        """Calls without an opener, but for those that a block has read."""
        data, base = self._data, self._base
        seen = {call.at for call in calls}
        for found in objects:
            call = call_of(found, data, base, self._offered, False)
            if call is not None and found.start not in seen:
                name, said, at = call
                calls.append(ShadowCall(name, said, found.start, found.end, found.start, False, said_at=at))
        for start, stop in lists:
            listed = forms.literal_call(data[start - base : stop - base].decode("utf-8", "surrogatepass"))
            if listed is not None and start not in seen:
                calls.append(ShadowCall(*listed, start, stop, start, explicit=False))

    def _blocks(self, end: int, final: bool, calls: list[ShadowCall]) -> int | None:
        """Reads what openers announce; returns what must be held. An opener inside another's call opens one of its own,
        because another family's reader would see only that."""
        data, base = self._data, self._base
        for block in self._open:
            block.advance(data, base, end, final, calls)
        partial: int | None = None
        if markers.MAY_OPEN.search(data, self._scanned - base) is None:
            self._scanned = end
        else:
            while (opener := markers.OPENER.search(data, self._scanned - base)) is not None:
                self._scanned = opener.end() + base
                self._begin(opener, end, final, calls)
            partial = None if final else markers.partial_opener(data, self._scanned - base)
            self._scanned = end if partial is None else partial + base
        self._open = [block for block in self._open if not block.over]
        if len(calls) > 1:
            calls[:] = {call.at: call for call in reversed(calls)}.values()
        held = [block.held_from for block in self._open]
        if partial is not None:
            held.append(partial + base)
        return min(held, default=None)

    def _begin(self, opener: re.Match[bytes], end: int, final: bool, calls: list[ShadowCall]) -> None:
        data, base = self._data, self._base
        start = opener.start() + base
        at = start if data[opener.start()] == ord("<") else opener.end() + base
        block = Block(start, at, opener.lastgroup, self._offered)
        block.advance(data, base, end, final, calls)
        if block.over:
            return
        self._open = [one for one in self._open if not one.over]
        self._open.append(block)
        if len(self._open) > MOST_OPEN:
            self._open.pop(0).give_up(data, base, end, calls)

    def _cut_off(self, end: int, calls: list[ShadowCall]) -> None:
        """Calls without an opener that the end of the text cuts off."""
        explicit = {call.at for call in calls}
        for reading in self._objects.readings:
            cut = cut_off(reading, self._data, self._base, end)
            if cut is not None and cut[0] in self._offered and reading.start not in explicit:
                calls.append(ShadowCall(*cut, reading.start, end, reading.start, explicit=False, complete=False))
        for start in self._lists.open_calls():
            text = self._data[start - self._base :].decode("utf-8", "surrogatepass")
            if start not in explicit:
                name = forms.plain_name(text.partition("(")[0])
                calls.append(ShadowCall(name, text, start, end, start, explicit=False, complete=False))

    def _bound(self, end: int, calls: list[ShadowCall]) -> None:
        """An object without an end must not be kept for ever; what could be a call is reported as it stands."""
        live = self._objects.live
        if live is not None and end - live > LONGEST_CALL:
            shown = self._data[live - self._base : live - self._base + SHOWN_OF_LONGEST].decode("utf-8", "replace")
            names = [cut_off(reading, self._data, self._base, end) for reading in self._objects.readings]
            known = [name[0] for name in names if name is not None and name[0] in self._offered]
            if known:
                calls.append(ShadowCall(known[0], shown, live, end, live, explicit=False))
            self._objects.give_up()
        live = self._lists.live
        if live is not None and end - live > LONGEST_CALL:
            self._lists.give_up()

    def _forget(self, end: int) -> None:
        """Drops the text that nothing needs any longer."""
        needed = min(end, self._scanned, self._lists.needed)
        if (live := self._objects.live) is not None:
            needed = min(needed, live)
        for block in self._open:
            needed = min(needed, block.needed)
        del self._data[: needed - self._base]
        self._base = needed
        self._idle = not self._data and not self._open
