"""What becomes of an event when it leaves the queue of its choice: which of its calls are refused, what of its words is
masked, whether its tokens may be shown.

An event's tokens are hidden if they may spell any of what is refused or masked: a call that it touches, a span that its
text touches, and where they spell something else than its text, a span in what was said about then. So are those of the
event before a span: what else they might have been may be how the span begins.
"""

from __future__ import annotations

from itertools import islice

import msgspec

from proxy.gated_choice import Choice, HeldEvent
from proxy.gated_text import TextWatch
from serving.wire.masking import Surface, masked, touches, utf8
from serving.wire.vocabulary import ChoiceDelta
from serving.wire.writer import EventChange

LOOK_AHEAD = 4
"""Events after one that shows tokens, of which the first that says something is to be judged before that one leaves."""

_SURFACES: tuple[Surface, ...] = ("reasoning", "text")


class Leaving(msgspec.Struct, frozen=True):
    """``change``: None if the event passes as it is. ``refusals`` are given after it, and then, if they come between
    what it says and its end, ``ending`` as an event of its own."""

    change: EventChange | None = None
    refusals: tuple[str, ...] = ()
    ending: str | None = None


_AS_IT_IS = Leaving()


def leaving(choice: Choice, held: HeldEvent, closing: str) -> Leaving:
    """What becomes of an event whose calls and texts are judged, and which is out of the queue. ``closing``: the finish
    reason of a choice whose calls were all refused."""
    watch = choice.texts if choice.texts is not None and choice.texts.masked else None
    if watch is None and not choice.calls:
        return _AS_IT_IS
    delta = held.delta
    dropped, refusals = _verdicts(choice, held)
    arguments, shows = _arguments(choice, held)
    if watch is None and not choice.changed:
        return _AS_IT_IS
    texts: dict[Surface, str] = {}
    if watch is not None:
        texts = _texts(watch, held)
        if delta.tokens:
            shows = shows or _shows(watch, held) or any(_shows(watch, after) for after in _after(choice))
    finish = delta.finish
    if finish is not None and choice.refused and not choice.kept and finish != "length":
        finish = closing
    apart = bool(refusals) and finish is not None  # the refusal comes between what it says and its end
    change = EventChange(
        choice=delta.choice,
        dropped=dropped,
        renumber={i: choice.numbers[i] for i in held.touches if choice.numbers.get(i, i) != i},
        hide_tokens=delta.tokens > 0 and (bool(dropped) or shows),
        finish=finish if finish != delta.finish and not apart else None,
        open_end=apart,
        texts=texts,
        arguments=arguments,
    )
    changes = (
        *(change.dropped, change.renumber, change.hide_tokens, change.finish, change.open_end),
        *(change.texts, change.arguments),
    )
    return Leaving(change if any(changes) else None, tuple(refusals), finish if apart else None)


def _verdicts(choice: Choice, held: HeldEvent) -> tuple[frozenset[int], list[str]]:
    """Which of the calls that an event touches are refused, and the refusals to give after it: each
    where the first piece of its call stood."""
    pieces = {tool.index for tool in held.delta.tools}
    dropped, refusals = set(), []
    for index in sorted(held.touches):
        call = choice.calls.get(index)
        if call is None or call.answer is None:
            continue  # calls are not held: only texts are
        if call.answer.refusal is not None:
            dropped.add(index)
            if index in pieces and not call.told:
                call.told = True
                refusals.append(call.answer.refusal)
        elif index not in choice.numbers:
            choice.numbers[index] = choice.kept
            choice.kept += 1
    return frozenset(dropped), refusals


def _texts(watch: TextWatch, held: HeldEvent) -> dict[Surface, str]:
    """The texts of an event that are masked, as the client gets them."""
    told: dict[Surface, str] = {}
    for surface, end in held.said:
        said = _said(held.delta, surface)
        start = end - len(utf8(said))
        masks = watch.masks(surface)
        if touches(masks, start, end):
            told[surface] = masked(said, masks, start)
    return told


def _shows(watch: TextWatch, held: HeldEvent) -> bool:
    """Whether its tokens may spell any of what is masked. Where they are not just its own words, they may be those of
    what was said since tokens were shown last, and of the text for which it waited."""
    delta = held.delta
    own = delta.logprob_text is not None and delta.logprob_text == _said(delta, "reasoning") + _said(delta, "text")
    said, waited = dict(held.said), dict(held.place)
    for surface in _SURFACES:
        end = said.get(surface, watch.said(surface))
        start = end - len(utf8(_said(delta, surface)))
        if not own:
            start, end = min(start, watch.shown(surface)), max(end, waited.get(surface, 0))
        if touches(watch.masks(surface), start, end):
            return True
    return False


def _after(choice: Choice) -> list[HeldEvent]:
    """The events that come next, up to the first one that says something."""
    found = list(islice(choice.queue, LOOK_AHEAD))
    said = (at for at, one in enumerate(found) if one.delta.reasoning or one.delta.text)
    return found[: next(said, len(found)) + 1]


def _said(delta: ChoiceDelta, surface: Surface) -> str:
    return (delta.reasoning if surface == "reasoning" else delta.text) or ""


def _arguments(choice: Choice, held: HeldEvent) -> tuple[dict[int, str], bool]:
    """The pieces of arguments that are masked, by their call's index, and whether the event touches such a call."""
    told: dict[int, str] = {}
    for tool in held.delta.tools:
        call = choice.calls.get(tool.index)
        if call is None:
            continue
        start = call.given
        call.given += len(utf8(tool.arguments))
        if call.answer is not None and touches(call.answer.arguments, start, call.given):
            told[tool.index] = masked(tool.arguments, call.answer.arguments, start)
    touched = (choice.calls.get(index) for index in held.touches)
    return told, any(call is not None and call.answer is not None and bool(call.answer.arguments) for call in touched)
