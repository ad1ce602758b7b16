"""Finds the JSON objects in a text that flows, wherever one begins, with work that is linear in the text.

Any ``{`` may begin an object, also one inside what another reading takes for a string; trying each afresh would
cost the square of the text. It need not: two readings that agree on whether a place is inside a string agree on
everything that follows, and a backslash outside a string ends a reading. So never more than two readings are
alive, one the opposite of the other, and an object within an object is a level of the same reading.

All positions are bytes from the text's begin; ``base`` is where ``data`` begins in it.
"""

from __future__ import annotations

import re

MEMBERS_SEEN = 64
"""Levels at which members are noted. Deeper ones are only counted: the strict reading refuses them."""

NAME_KEYS = frozenset({b"name", b"tool", b"tool_name", b"function", b"function_name", b"action"})
ARGUMENT_KEYS = frozenset(
    {b"arguments", b"parameters", b"args", b"params", b"kwargs", b"input", b"tool_input", b"action_input"}
)
WRAPPER_KEYS = frozenset({b"function", b"function_call", b"tool_call", b"tool_calls", b"calls"})

_RUN = re.compile(rb'[^"\\]*+')
_SPACE = re.compile(rb"[ \t\r\n]*+")
_SCALAR = re.compile(rb"[-+.0-9A-Za-z]++")
_LONGEST_KEY = 6 * 64
_VALUE, _FIRST_VALUE, _KEY, _FIRST_KEY, _COLON, _AFTER, _STRING = range(7)
_QUOTE, _ESCAPE, _OBJECT, _OBJECT_END, _LIST, _LIST_END, _COMMA, _COLON_SIGN = b'"\\{}[],:'


class Level:
    """An open object or list: where it began, and where the values of the members of interest stand."""

    __slots__ = ("arguments", "is_object", "key", "members", "names", "start", "value_at", "wrapped")

    def __init__(self, start: int, is_object: bool, wrapped: bool) -> None:
        self.start = start
        self.is_object = is_object
        self.wrapped = wrapped
        self.key: bytes | None = None
        self.value_at = start
        self.members = 0
        self.names: list[tuple[int, int]] = []
        self.arguments: list[tuple[int, int]] = []

    def value_ends(self, at: int) -> None:
        self.members += 1
        if self.key in NAME_KEYS:
            self.names.append((self.value_at, at))
        elif self.key in ARGUMENT_KEYS:
            self.arguments.append((self.value_at, at))


class FoundObject:
    """A whole object ``[start, end)``; ``depth`` is 0 for one that stands in no other."""

    __slots__ = ("depth", "end", "level")

    def __init__(self, level: Level, end: int, depth: int) -> None:
        self.level = level
        self.end = end
        self.depth = depth

    @property
    def start(self) -> int:
        return self.level.start


class ObjectReading:
    """One reading, from one ``{``. ``over`` when it has come to its end or to what no object can have there."""

    __slots__ = ("_at_value", "_kinds", "_state", "_string_at", "at", "inner", "levels", "over", "start", "whole")

    def __init__(self, start: int) -> None:
        self.start = start
        self.at = start
        self.over = False
        self.whole = False
        self.inner: int | None = None
        self.levels: list[Level] = []
        self._kinds = bytearray()
        self._state = _VALUE
        self._string_at = start
        self._at_value = True

    def advance(self, data: bytearray, base: int, to: int, found: list[FoundObject]) -> None:
        """Read on, to ``to`` at most; stops early behind a stretch of a string with a ``{`` in it (``inner``)."""
        at, limit = self.at - base, to - base
        self.inner = None
        while at < limit and not self.over:
            if self._state == _STRING:
                begin = at
                match = _RUN.match(data, at, limit)
                at = match.end() if match else at
                inner = data.find(b"{", begin, at)
                if inner >= 0:
                    self.inner = inner + base
                if at < limit:
                    if data[at] == _ESCAPE:
                        if at + 1 >= limit:
                            break
                        at += 2
                    else:
                        at += 1
                        self._string_ends(data, base, at + base)
                if self.inner is not None:
                    break
                continue
            space = _SPACE.match(data, at, limit)
            at = space.end() if space else at
            if at < limit:
                at = self._token(data, base, at, limit, found)
        self.at = at + base

    def _string_ends(self, data: bytearray, base: int, end: int) -> None:
        if self._at_value:
            self._state = _AFTER
            return
        self._state = _COLON
        if len(self._kinds) <= MEMBERS_SEEN:
            begin = self._string_at - base
            text = bytes(data[begin + 1 : min(end - base - 1, begin + _LONGEST_KEY + 1)])
            self.levels[-1].key = unescaped_key(text) if b"\\" in text else text

    def _token(self, data: bytearray, base: int, at: int, limit: int, found: list[FoundObject]) -> int:
        """What stands at ``at``, outside strings; where it ends."""
        sign, state, noted = data[at], self._state, len(self._kinds) <= MEMBERS_SEEN
        if state in (_VALUE, _FIRST_VALUE):
            if noted and self.levels and not (sign == _LIST_END and state == _FIRST_VALUE):
                self.levels[-1].value_at = at + base
            if sign in (_OBJECT, _LIST):
                self._open(sign == _OBJECT, at + base)
            elif sign == _QUOTE:
                self._string(at + base, True)
            elif sign == _LIST_END and state == _FIRST_VALUE:
                self._close(at + base, found)
            elif scalar := _SCALAR.match(data, at, limit):
                self._state = _AFTER
                return scalar.end()
            else:
                self.over = True
                return at
        elif state in (_KEY, _FIRST_KEY) and sign == _QUOTE:
            self._string(at + base, False)
        elif state == _FIRST_KEY and sign == _OBJECT_END:
            self._close(at + base, found)
        elif state == _COLON and sign == _COLON_SIGN:
            self._state = _VALUE
        elif state == _AFTER:
            in_object = bool(self._kinds[-1])
            if sign == (_OBJECT_END if in_object else _LIST_END):
                if noted and in_object:
                    self.levels[-1].value_ends(at + base)
                self._close(at + base, found)
            elif sign == _COMMA:
                if noted and in_object:
                    self.levels[-1].value_ends(at + base)
                self._state = _KEY if in_object else _VALUE
            elif (scalar := _SCALAR.match(data, at, limit)) and _SCALAR.match(data, at - 1):
                return scalar.end()  # a number that came in pieces
            else:
                self.over = True
                return at
        else:
            self.over = True
            return at
        return at + 1

    def _string(self, at: int, is_value: bool) -> None:
        self._state, self._string_at, self._at_value = _STRING, at, is_value

    def _open(self, is_object: bool, at: int) -> None:
        if len(self._kinds) < MEMBERS_SEEN:
            above = self.levels[-1] if self.levels else None
            wrapped = above is not None and (above.key in WRAPPER_KEYS if above.is_object else above.wrapped)
            self.levels.append(Level(at, is_object, wrapped))
        self._kinds.append(is_object)
        self._state = _FIRST_KEY if is_object else _FIRST_VALUE

    def _close(self, at: int, found: list[FoundObject]) -> None:
        is_object = bool(self._kinds.pop())
        self._state = _AFTER
        if len(self._kinds) < MEMBERS_SEEN:
            level = self.levels.pop()
            if is_object and (level.names or not self._kinds):
                found.append(FoundObject(level, at + 1, len(self._kinds)))
        if not self._kinds:
            self.over = self.whole = True


class FlowingObjects:
    """All objects of one text. ``live`` is where the oldest that is still open began."""

    __slots__ = ("_at", "_one", "_other")

    def __init__(self) -> None:
        self._at = 0
        self._one: ObjectReading | None = None
        self._other: ObjectReading | None = None

    @property
    def live(self) -> int | None:
        return self._one.start if self._one is not None else None

    @property
    def readings(self) -> list[ObjectReading]:
        return [one for one in (self._one, self._other) if one is not None]

    def skip(self, to: int) -> None:
        """Nothing is open, and nothing begins before ``to``."""
        self._at = to

    def give_up(self) -> None:
        """What is open is not looked at any longer."""
        self._at = self._one.at if self._one is not None else self._at
        self._one = self._other = None

    def advance(self, data: bytearray, base: int, to: int) -> list[FoundObject]:
        found: list[FoundObject] = []
        while True:
            one = self._one
            if one is None:
                begin = data.find(b"{", self._at - base, to - base)
                if begin < 0:
                    self._at = to
                    return found
                one = self._one = ObjectReading(begin + base)
            before = one.at
            one.advance(data, base, to, found)
            self._follow(one, data, base, found)
            if one.over:
                self._at = one.at
                self._one, self._other = self._other, None
            elif one.at == before or one.at >= to:
                return found

    def _follow(self, one: ObjectReading, data: bytearray, base: int, found: list[FoundObject]) -> None:
        """The opposite reading, as far as ``one`` has come."""
        begin = one.inner
        while True:
            other = self._other
            if other is None:
                place = data.find(b"{", begin - base, one.at - base) if begin is not None else -1
                if place < 0:
                    return
                other = self._other = ObjectReading(place + base)
            before = other.at
            other.advance(data, base, one.at, found)
            if other.over:
                begin = None if begin is None else max(begin, other.at)
                self._other = None
            elif other.at == before or other.at >= one.at:
                return


def unescaped_key(text: bytes) -> bytes:
    """A key's text with its ``\\u`` escapes decoded, as far as they are ASCII."""
    return re.sub(rb"\\u00([0-7][0-9a-fA-F])", lambda escape: bytes([int(escape[1], 16)]), text)
