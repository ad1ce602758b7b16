"""The text of one choice of a gated answer, as far as policies may stop it: what was found, and what may leave.

How to think about it. A choice has two surfaces of text, ``reasoning`` and ``text``. For each surface that an
enforcing policy judges there is a rule: how many bytes stay behind (``hold``: 0 none, a number, None for all), what
looks for signals while it grows, and whether it is asked about once more when it is over. The gate tells the watch
what every event says and gets back what is to be asked; of an event that waits it keeps the place (how far each
surface had come) and asks :meth:`TextWatch.may_go`.

Calls that the model left in plain text, which a harness may still execute, are looked for in both surfaces too: text
waits from where an opener stands or may stand, and a call that becomes known is asked about.

An event with text leaves when ``hold`` more bytes of its surface have come (more where the text hides what it says,
which the scanner knows), or when its surface is over: the other one, or a tool call, has begun, or the choice has
finished. At such a seam the text is asked about as if it ended there, as a client will read it. Searching goes on over
the seam, so a match that was interrupted still cuts; what had left by then is exposed and recorded. While a question
is open nothing leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from serving.wire.masking import Mask, Masks, Surface, join_in
from serving.wire.shadow_calls.block import ShadowCall
from serving.wire.shadow_calls.reader import ShadowReader
from serving.wire.vocabulary import ChoiceDelta

Place = tuple[tuple[Surface, int], ...]


class Scanner(Protocol):
    """Looks for signals in one surface of one choice as it grows."""

    def feed(self, text: str) -> Sequence[Any]:
        """What is found now that ``text`` has come."""

    def end(self) -> Sequence[Any]:
        """What only the end makes certain."""

    def pause(self) -> Sequence[Any]:
        """What the end would make certain if it were here; the text may go on."""

    def free(self, hold: int) -> int:
        """How many bytes of the surface no later match can begin in, if none is longer than ``hold``."""


class Matcher(Scanner, Protocol):
    """One that can tell every match whole, so that it can be masked."""

    def settle(self, left: int) -> None:
        """From now on all that begin at byte ``left`` or later are told by :meth:`settled`."""

    @property
    def settling(self) -> bool: ...

    def settled(self, final: bool) -> Sequence[Any]:
        """Those that are certain by now; ``final``: as if the text ended here."""


class TextRule(Protocol):
    """What an enforcing policy set wants of one surface. Sizes are bytes of UTF-8. ``matches`` makes a scanner for a
    text of which so many bytes wait (None: all)."""

    @property
    def hold(self) -> int | None: ...

    @property
    def scanner(self) -> Callable[[], Scanner] | None: ...

    @property
    def at_end(self) -> bool: ...

    @property
    def matches(self) -> Callable[[int | None], Matcher] | None: ...


class Found(msgspec.Struct, frozen=True):
    """Something to ask about: ``hits`` of a scanner, ``calls`` in plain text, or (``ended``) that the surface is over.
    ``size`` is how many bytes of the surface have come, ``left`` how many of them have left for the client.
    ``maskable``: what has not left can be masked; ``settled``: the hits are whole, and there are no others."""

    surface: Surface
    hits: tuple[Any, ...] = ()
    calls: tuple[ShadowCall, ...] = ()
    ended: bool = False
    size: int = 0
    left: int = 0
    maskable: bool = False
    settled: bool = False


class _State:
    __slots__ = (
        *("at_end", "free", "hold", "left", "maskable", "masks", "matcher", "opened", "over", "scanner", "shadow"),
        *("said", "settling", "shown", "size"),
    )

    def __init__(self, rule: TextRule | None, offered: frozenset[str] | None, whole: bool) -> None:
        self.hold = None if whole else rule.hold if rule is not None else 0
        self.at_end = rule is not None and rule.at_end
        self.maskable = rule is not None and self.hold != 0
        self.matcher = rule.matches(self.hold) if rule is not None and rule.matches and self.maskable else None
        self.scanner: Scanner | None = self.matcher
        if self.matcher is None and rule is not None and rule.scanner is not None:
            self.scanner, self.maskable = rule.scanner(), False
        self.settling = False
        self.masks: list[Mask] = []
        self.shadow = ShadowReader(offered) if offered is not None else None
        self.opened: int | None = None  # a call in plain text begins here, or may begin
        self.size = 0
        self.free = 0  # bytes that need not wait for more text
        self.left = 0
        self.said = 0  # of what has left, without what tokens may have shown ahead of their text
        self.shown = 0  # of that, before the last tokens that were shown
        self.over = False


class TextWatch:
    """One choice. ``offered``: the request's tools, where calls in plain text are looked for; None: they are not.
    ``open`` holds the tickets of questions that have no answer yet; ``masked``: some of what is said is masked.
    ``whole``: nothing leaves before all of it is judged, whatever the rules say."""

    __slots__ = ("_finished", "_now", "_offered", "_rules", "_states", "_whole", "masked", "open")

    def __init__(
        self, rules: Mapping[Surface, TextRule], offered: frozenset[str] | None = None, *, whole: bool = False
    ) -> None:
        self._rules = rules
        self._whole = whole
        self.masked = False
        self._offered = offered
        self._states: dict[Surface, _State] = {}
        self._now: Surface | None = None
        self._finished = False
        self.open: set[int] = set()

    def take(self, delta: ChoiceDelta) -> tuple[Place, list[Found]]:
        """What the next event says: its place, and what was found."""
        place: list[tuple[Surface, int]] = []
        found: list[Found] = []
        if delta.tools:
            self._turn(None, found)
        if delta.reasoning:
            self._grow("reasoning", delta.reasoning, place, found)
        if delta.text:
            self._grow("text", delta.text, place, found)
        return tuple(place), found

    def _grow(self, surface: Surface, said: str, place: list[tuple[Surface, int]], found: list[Found]) -> None:
        self._turn(surface, found)
        state = self._states.get(surface)
        if state is None:
            rule = self._rules.get(surface)
            if rule is None and self._offered is None:
                return
            state = self._states[surface] = _State(rule, self._offered, self._whole)
        state.over = False
        state.size += len(said) if said.isascii() else len(said.encode("utf-8", "surrogatepass"))
        place.append((surface, state.size))
        hits: Sequence[Any] = state.scanner.feed(said) if state.scanner is not None else ()
        if state.hold is not None:
            state.free = state.scanner.free(state.hold) if state.scanner is not None else state.size - state.hold
        calls: tuple[ShadowCall, ...] = ()
        if state.shadow is not None:
            shadow = state.shadow.feed(said)
            state.opened, calls = shadow.opened_at, shadow.calls
        if hits or calls:
            found.append(Found(surface, tuple(hits), calls))
        if state.settling:
            self._settled(surface, state, found, final=False)

    def standing(self, found: list[Found]) -> list[Found]:
        """What was found, as things stand now."""
        standing: list[Found] = []
        for one in found:
            state = self._states[one.surface]
            standing.append(msgspec.structs.replace(one, size=state.size, left=state.left, maskable=state.maskable))
        return standing

    def _turn(self, surface: Surface | None, found: list[Found]) -> None:
        """Text goes on in ``surface``, so the other one may be over: whoever reads it takes it as it is now."""
        if surface is self._now:
            return
        if self._now is not None and (before := self._states.get(self._now)) is not None:
            before.over = True
            if before.scanner is not None and (hits := before.scanner.pause()):
                found.append(Found(self._now, tuple(hits)))
            if before.settling and before.hold is not None:
                self._settled(self._now, before, found, final=True)
        self._now = surface

    def finish(self) -> list[Found]:
        """The choice is over."""
        if self._finished:
            return []
        self._finished = True
        found: list[Found] = []
        for surface, state in self._states.items():
            hits = tuple(state.scanner.end()) if state.scanner is not None else ()
            calls = state.shadow.end().calls if state.shadow is not None else ()
            state.opened = None
            if state.settling:
                if hits or calls:
                    found.append(Found(surface, hits, calls))
                self._settled(surface, state, found, final=True)
            elif hits or calls or state.at_end:
                found.append(Found(surface, hits, calls, True))
        return self.standing(found)

    # -- masks -------------------------------------------------------------------------------------

    def settle(self, surface: Surface) -> list[Found]:
        """Something of a surface is to be masked: every match in it is told whole from now on."""
        state = self._states[surface]
        if state.settling:
            return []
        state.settling = True
        if state.matcher is not None:
            state.matcher.settle(state.left)
        found: list[Found] = []
        self._settled(surface, state, found, final=self._finished or (state.over and state.hold is not None))
        return self.standing(found)

    def _settled(self, surface: Surface, state: _State, found: list[Found], *, final: bool) -> None:
        hits = tuple(state.matcher.settled(final)) if state.matcher is not None else ()
        if state.matcher is not None and state.hold is not None:
            state.free = state.matcher.free(state.hold)
        ended = self._finished and final
        if hits or (ended and state.at_end):
            found.append(Found(surface, hits, (), ended, settled=True))

    def mask(self, surface: Surface, masks: Masks) -> None:
        """What the client is not given of a surface."""
        state = self._states[surface]
        join_in(state.masks, masks)
        self.masked = self.masked or bool(state.masks)

    def masks(self, surface: Surface) -> Masks:
        state = self._states.get(surface)
        return state.masks if state is not None else ()

    @property
    def here(self) -> Place:
        """How far the surfaces have come."""
        return tuple([(surface, state.size) for surface, state in self._states.items()])

    def waits(self, place: Place) -> bool:
        """Whether an event at ``place`` cannot leave as soon as it comes."""
        if self.open:
            return True
        for surface, _ in place:
            state = self._states[surface]
            if state.hold != 0 or state.opened is not None:
                return True
        return False

    @property
    def idle(self) -> bool:
        """Without rules: text in which no call can begin leaves as it comes, and changes nothing but lengths."""
        return not self.open and all(state.shadow is None or state.shadow.idle for state in self._states.values())

    def may_go(self, place: Place) -> bool:
        """Whether an event at ``place``, the oldest that is held, may leave now."""
        if self.open:
            return False
        for surface, end in place:
            state = self._states[surface]
            if self._finished:
                continue
            if state.opened is not None and end > state.opened:
                return False
            if state.hold is None or (state.hold and end > state.free and not state.over):
                return False
        return True

    def gave(self, place: Place) -> None:
        """An event at ``place`` leaves."""
        for surface, end in place:
            self._states[surface].left = end

    def gave_text(self, said: Place, *, tokens: bool) -> None:
        """So much has been said by the events that have left; the last one shows ``tokens``."""
        for surface, end in said:
            self._states[surface].said = end
        if tokens:
            for state in self._states.values():
                state.shown = state.said

    def said(self, surface: Surface) -> int:
        state = self._states.get(surface)
        return state.said if state is not None else 0

    def shown(self, surface: Surface) -> int:
        """How much had been said when tokens were shown last."""
        state = self._states.get(surface)
        return state.shown if state is not None else 0

    @property
    def stuck(self) -> bool:
        """Something waits for what may be long in coming: the end of its surface, or of a call in plain text."""
        return not self._finished and any(
            state.left < state.size and (state.hold is None or state.opened is not None)
            for state in self._states.values()
        )
