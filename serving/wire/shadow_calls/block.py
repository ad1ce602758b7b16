"""What stands behind one opener, up to the end of its calls: read piece by piece, each byte a bounded number of times.

Which family's harness will read the text is not known, so behind every opener every form of a call is understood.
A block that turns out to be none (prose that names an opener) is given up within a few words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import msgspec

from serving.wire.shadow_calls import forms, markers
from serving.wire.shadow_calls.json_objects import ARGUMENT_KEYS, FoundObject, ObjectReading
from serving.wire.shadow_calls.python_calls import PythonReading

LONGEST_CALL = 1024 * 1024
"""Bytes of one call. A longer one is reported as it stands, which no strict reading takes."""

SHOWN_OF_LONGEST = 1024
MOST_SKIPPED = 32
"""Tags and separators between an opener or a call and the next call."""
_PYTHON = "python"


class ShadowCall(msgspec.Struct, frozen=True):
    """A tool call that stands in plain text, at the bytes ``[start, end)`` of its surface.

    ``arguments`` is JSON where the form has a reading as JSON, else the text as it stands, which the strict reading
    refuses. ``complete`` is False if the text ended inside the call. ``explicit``: an opener announced it.
    ``at`` is where the call itself begins, behind its opener; ``said_at`` where ``arguments`` stand just so, None if
    they were put into other words.
    """

    name: str
    arguments: str
    start: int
    end: int
    at: int
    explicit: bool = True
    complete: bool = True
    said_at: int | None = None


class Block:
    """One opened block. ``at`` is where reading goes on; ``held_from`` what may still become a call; ``over``: the
    text from ``at`` on is no longer part of it."""

    def __init__(self, start: int, at: int, kind: str | None, names: frozenset[str]) -> None:
        self.at = at
        self.held_from = start
        self.over = False
        self._begin = start
        self._code = kind == "code"
        self._recipient = kind == "recipient"
        self._names = names
        self._item_at = at
        self._name = ""
        self._searched = at
        self._skipped = 0
        self._phase: Callable[[bytearray, int, int, bool, list[ShadowCall]], bool] = self._head
        self._json: ObjectReading | None = None
        self._python: PythonReading | None = None
        self._gemma = False

    @property
    def needed(self) -> int:
        """From where on the text is needed again."""
        return min(self._item_at, self.at)

    def advance(self, data: bytearray, base: int, end: int, final: bool, calls: list[ShadowCall]) -> None:
        while not self.over and self._phase(data, base, end, final, calls):
            pass
        if not self.over and end - self._item_at > LONGEST_CALL:
            self.give_up(data, base, end, calls)

    def give_up(self, data: bytearray, base: int, end: int, calls: list[ShadowCall]) -> None:
        """Reads no further. A call that has begun is reported as it stands, which no strict reading takes."""
        if self._phase != self._head:
            cut = cut_off(self._json, data, base, end) if self._json is not None else None
            name = self._name or (cut[0] if cut else "")
            self._give(calls, name, _text(data, base, self._item_at, self._item_at + SHOWN_OF_LONGEST), end)
        self.at, self.over = end, True

    # -- between calls -----------------------------------------------------------------------------

    def _head(self, data: bytearray, base: int, end: int, final: bool, calls: list[ShadowCall]) -> bool:
        at = self.at - base
        self._item_at = self.at
        if data[at : at + 1] == b"<":
            return self._tag(data, base, end)
        if self._code and (code := markers.CODE.match(data, at)):
            return self._go(self._program) if code.end() < len(data) or final else False
        if (opened := markers.reopens(data, at)) is not None and not final:
            if opened < len(data):
                self.at = opened + base
            return opened < len(data)
        item = markers.ITEM.match(data, at)
        if item is None or (self._recipient and item["named"] is None):
            return self._undecided(data, base, end)
        if item["skip"] is not None:
            self.at = item.end() + base
            return self._skips(end)
        if item["json"] is not None:
            self._json = ObjectReading(self.at)
            return self._go(self._object)
        if item["named"] is not None:
            self._name = forms.plain_name(_decoded(item["name"]))
            self._gemma = item["prefix"] is not None
            self.at = item.end() + base
            self._json = ObjectReading(self.at)
            return self._go(self._arguments)
        if item["keyed"] is not None:
            self._name = forms.plain_name(_decoded(item["keyed_name"]))
            self.at = item.end("keyed_name") + base
            self._searched = self.at
            return self._go(self._keyed)
        if self._code:
            return self._go(self._program)
        self._python = PythonReading(item.start("called") + base, None)
        return self._go(self._call)

    def _go(self, phase: Callable[[bytearray, int, int, bool, list[ShadowCall]], bool]) -> bool:
        self._phase = phase
        self._searched = max(self._searched, self.at)
        return True

    def _undecided(self, data: bytearray, base: int, end: int) -> bool:
        """Either more is needed to tell, or this is no call."""
        at = self.at - base
        waits = markers.UNFINISHED_ITEM.match(data, at) or (self._code and markers.UNFINISHED_CODE.match(data, at))
        if waits and end - self.at <= markers.LONGEST_HEAD:
            return False
        begins = markers.BEGINS_WITH_NAME.match(data, at)
        if begins and (name := forms.plain_name(_decoded(begins[1]))) in self._names:
            self._name = name  # an offered tool, right behind its opener: some readers ask for no more
            return self._go(self._malformed)
        self.over = True
        return False

    def _tag(self, data: bytearray, base: int, end: int) -> bool:
        at = self.at - base
        tag = markers.TAG.match(data, at)
        if tag is None:
            return self._undecided(data, base, end)
        if function := markers.FUNCTION_TAG.match(data, at):
            self._name = forms.plain_name(_decoded(function[1]))
            self.at = self._searched = function.end() + base
            return self._go(self._function)
        self.at = tag.end() + base
        self.over = markers.CLOSER.match(data, at) is not None
        return self._skips(end)

    def _skips(self, end: int) -> bool:
        """One more tag or separator; behind too many of them no call comes that this block announced."""
        self._skipped += 1
        self.over = self.over or self._skipped > MOST_SKIPPED
        return self.at < end

    # -- calls -------------------------------------------------------------------------------------

    def _object(self, data: bytearray, base: int, end: int, final: bool, calls: list[ShadowCall]) -> bool:
        """A JSON object that says the call's name and arguments, or several calls."""
        reading, found = self._json, list[FoundObject]()
        assert reading is not None
        _read_on(reading, data, base, end, found)
        for one in found:
            if (call := call_of(one, data, base, self._names, True)) is not None:
                name, arguments, said_at = call
                self._give(calls, name, arguments, one.end, at=one.start, said_at=said_at)
        if not reading.over:
            if final:
                self._cut_off_object(reading, data, base, end, calls)
            return False
        self.at = reading.at
        if reading.whole:
            self._phase = self._head
            self.held_from = self._begin = self.at
            return True
        return self._go(self._malformed)

    def _cut_off_object(
        self, reading: ObjectReading, data: bytearray, base: int, end: int, calls: list[ShadowCall]
    ) -> None:
        cut = cut_off(reading, data, base, end)
        if cut is None and (only := markers.ONLY_KEY.match(data, reading.start - base)):
            cut = forms.plain_name(_decoded(only[1])), _text(data, base, only.end() + base - 1, end)
        if cut is not None:
            self._give(calls, *cut, end, complete=False)

    def _arguments(self, data: bytearray, base: int, end: int, final: bool, calls: list[ShadowCall]) -> bool:
        """The JSON object behind a name."""
        reading = self._json
        assert reading is not None
        _read_on(reading, data, base, end, [])
        if not reading.over:
            if final:
                self._give(calls, self._name, _text(data, base, reading.start, end), end, complete=False)
            return False
        if reading.whole:
            self.at = reading.at
            said = _text(data, base, reading.start, reading.at)
            self._give(calls, self._name, said, reading.at, said_at=reading.start)
            self._phase = self._head
            return True
        self._item_at = self.at = reading.start
        return self._go(self._malformed)

    def _function(self, data: bytearray, base: int, end: int, final: bool, calls: list[ShadowCall]) -> bool:
        return self._up_to(markers.FUNCTION_END, forms.of_function_tag, data, base, end, final, calls)

    def _keyed(self, data: bytearray, base: int, end: int, final: bool, calls: list[ShadowCall]) -> bool:
        return self._up_to(markers.FUNCTION_END, forms.of_keyed, data, base, end, final, calls)

    def _up_to(
        self,
        closer: re.Pattern[bytes],
        said: Callable[[bytes], str],
        data: bytearray,
        base: int,
        end: int,
        final: bool,
        calls: list[ShadowCall],
    ) -> bool:
        """The call's text up to its closing tag."""
        match = closer.search(data, self._searched - base)
        if match is None:
            self._searched = max(self._searched, end - markers.LONGEST_PARTIAL)
            if final:
                self._give(calls, self._name, said(bytes(data[self.at - base :])), end, complete=False)
            return False
        arguments = said(bytes(data[self.at - base : match.start()]))
        self.at = match.end() + base
        self._give(calls, self._name, arguments, self.at)
        self._phase = self._head
        return True

    def _call(self, data: bytearray, base: int, end: int, final: bool, calls: list[ShadowCall]) -> bool:
        """A Python call."""
        reading = self._python
        assert reading is not None
        reading.advance(data, base, end)
        if not reading.over and not final:
            return False
        text = _text(data, base, reading.start, reading.at if reading.over else end)
        name = forms.plain_name(text.partition("(")[0])
        self.at = reading.at
        if reading.whole:
            for one in forms.calls_in_python(text) or [(name, text)]:
                self._give(calls, *one, self.at)
            self._phase = self._head
            return True
        self._give(calls, name, text, reading.at if reading.over else end, complete=reading.over)
        self.over = True
        return False

    def _program(self, data: bytearray, base: int, end: int, final: bool, calls: list[ShadowCall]) -> bool:
        """A program, up to the end of its fence or tag: calls of tools, or code that is run as it is."""
        match = _PROGRAM_END.search(data, self._searched - base)
        if match is None and not final:
            self._searched = max(self._searched, end - markers.LONGEST_PARTIAL)
            return False
        stop = match.start() + base if match else end
        text = _text(data, base, self.at, stop)
        calls_of = forms.calls_in_python(text)
        if calls_of is None:
            calls_of = [(_PYTHON, forms.of_values([("code", text)]))]
            calls_of += forms.calls_within_python(text, self._names)
        self.at = match.end() + base if match else end
        for one in calls_of:
            self._give(calls, *one, stop, complete=match is not None)
        self.over = True
        return False

    def _malformed(self, data: bytearray, base: int, end: int, final: bool, calls: list[ShadowCall]) -> bool:
        """What began like JSON and is none: a reader that repairs may find a call in it."""
        match = _MALFORMED_END.search(data, self._searched - base)
        if match is None and not final:
            self._searched = max(self._searched, end - markers.LONGEST_PARTIAL)
            return False
        stop = match.start() + base if match else end
        text = bytes(data[self._item_at - base : stop - base])
        name = self._name
        if not name and (loose := markers.LOOSE_NAME.search(text) or markers.ONLY_KEY.match(text)):
            name = forms.plain_name(_decoded(loose[1]))
        said = text.decode("utf-8", "surrogatepass").strip()
        if name:
            self._give(calls, name, forms.of_gemma(said) if self._gemma else said, stop, complete=match is not None)
        self.at = stop
        self.over = True
        return False

    def _give(
        self,
        calls: list[ShadowCall],
        name: str,
        arguments: str,
        end: int,
        *,
        at: int | None = None,
        complete: bool = True,
        said_at: int | None = None,
    ) -> None:
        start = self._item_at if at is None else at
        calls.append(ShadowCall(name, arguments, self._begin, end, start, True, complete, said_at))
        self._begin = self.held_from = self._item_at = end
        self._skipped = 0
        self._name = ""


_PROGRAM_END = re.compile(rb"`{3}|" + markers.CLOSER.pattern, re.IGNORECASE | re.DOTALL)
_MALFORMED_END = re.compile(
    markers.CLOSER.pattern + rb"|(?:" + markers.OPENER.pattern + rb")", re.IGNORECASE | re.DOTALL
)


def call_of(
    found: FoundObject, data: bytearray, base: int, offered: frozenset[str], explicit: bool
) -> tuple[str, str, int | None] | None:
    """Name and arguments of the call that an object says, and where the arguments stand; None if it says none.

    Without an opener only a call of a tool that was offered is one; an object within another counts only so, too,
    but where the outer one is a wrapper such as ``{"function": …}``.
    """
    level = found.level
    names = [name for span in level.names if (name := _string(data, base, *span)) is not None]
    whole = _text(data, base, found.start, found.end)
    if not names:
        return _keyed_by_name(found, data, base) if explicit and found.depth == 0 else None
    known = [name for name in names if name in offered]
    outer = explicit and (found.depth == 0 or level.wrapped)
    if not (known or outer) or not (level.arguments or (outer and found.depth == 0)):
        return None
    name = known[0] if known else names[0]
    if len(level.names) > 1 or len(level.arguments) > 1:
        return name, whole, found.start  # readers differ on which one counts
    if not level.arguments:
        return name, "{}", None
    at = level.arguments[0][0]
    said = _text(data, base, *level.arguments[0]).rstrip()
    if said.startswith('"'):
        try:
            return name, str(json.loads(said, strict=False)), None
        except ValueError:
            return name, whole, found.start
    return name, said, at


def _keyed_by_name(found: FoundObject, data: bytearray, base: int) -> tuple[str, str, int] | None:
    """``{"get_weather": {"city": "Oslo"}}``."""
    level = found.level
    if level.members != 1 or level.key is None or data[level.value_at - base] != ord("{"):
        return None
    said = _text(data, base, level.value_at, found.end - 1).rstrip()
    return forms.plain_name(_decoded(level.key)), said, level.value_at


def cut_off(reading: ObjectReading, data: bytearray, base: int, end: int) -> tuple[str, str] | None:
    """Name and the beginning of the arguments of a call that the end of the text cuts off."""
    for level in reading.levels:
        names = [name for span in level.names if (name := _string(data, base, *span)) is not None]
        if names:
            if level.arguments:
                begin = level.arguments[0][0]
            else:
                begin = level.value_at if level.key in ARGUMENT_KEYS else level.start
            return names[0], _text(data, base, begin, end)
    return None


def _read_on(reading: ObjectReading, data: bytearray, base: int, end: int, found: list[FoundObject]) -> None:
    while not reading.over and reading.at < end:
        before = reading.at
        reading.advance(data, base, end, found)
        if reading.at == before:
            return


def _string(data: bytearray, base: int, start: int, end: int) -> str | None:
    """The name that the JSON string there says."""
    try:
        said = json.loads(bytes(data[start - base : end - base]), strict=False)
    except ValueError:
        return None
    return forms.plain_name(said) if isinstance(said, str) and said.strip() else None


def _decoded(raw: bytes | bytearray) -> str:
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # the text was cut inside a character
        return raw.decode("utf-8", "replace")


def _text(data: bytearray, base: int, start: int, end: int) -> str:
    return _decoded(data[start - base : end - base])
