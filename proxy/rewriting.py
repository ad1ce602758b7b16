"""Requests that a policy changes: messages in which spans are masked, results that are withheld.

How to think about it. The client keeps its history as it is and sends all of it again, so what was changed once is
changed again whenever the same message comes back, in the same words, whatever the policies say by then: the model
never sees it, and what it saw before stays the same (the model server's prefix cache too). What was changed is
remembered in the run, by a digest of role and text, and without the white space that is no news; a run that is not
remembered is an unknown history, whose messages are all new and are all judged again.

The body is changed where the texts stand, and then read again: unless every message now says just what it should, the
request is refused.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import msgspec

from proxy.exchange import Exchange
from proxy.history import ASSISTANT
from proxy.refusals import Refuse
from proxy.run import TooManyChanges
from serving.wire.dialect import Coerced, UpstreamRefuses
from serving.wire.message_texts import TextChange, rewrite
from serving.wire.request import ChatRequest, SentMessage
from serving.wire.splice import Unspliceable
from serving.wire.strict import NotStrict, read

_LARGE = 256 * 1024


async def changed(x: Exchange, body: bytes, fresh: Mapping[int, TextChange]) -> bytes:
    """The body as the model gets it: with what is remembered of this run, and ``fresh`` changes (index of a message →
    what), made. ``x.request`` and ``x.news`` say then what the body says. Raises ``Refuse`` if that cannot be."""
    run = x.sighting.run
    if not fresh and not run.changes:
        return body
    messages = x.request.messages
    changes = {at: change for at, one in enumerate(messages) if (change := _known(run.changes, one)) is not None}
    changes = {at: change for at, change in {**changes, **fresh}.items() if _changes(messages[at], change)}
    if not changes:
        return body
    try:
        if fresh:
            run.add_changes(dict(pair for at, change in fresh.items() for pair in _kept(messages[at], change)))
        given = len(body) < _LARGE
        new, view = _made(x, body, changes) if given else await asyncio.to_thread(_made, x, body, changes)
    except (Unspliceable, NotStrict) as problem:
        raise Refuse("policy_denied", f"The request must be changed by a policy, and cannot be: {problem}.") from None
    except TooManyChanges:
        raise Refuse(
            "policy_denied", "More messages of this run were changed than are remembered. Begin anew."
        ) from None
    x.say_instead(view)
    return new


def mark(message: SentMessage) -> str:
    """What a message is remembered by."""
    said = f"{message.role}\0{message.text}".encode("utf-8", "surrogatepass")
    return blake2b(said, digest_size=16).hexdigest()


def _changes(message: SentMessage, change: TextChange) -> bool:
    """Not of one that the model server keeps as it was changed."""
    return bool(message.media) or change.of(message.text) != message.text


def _bare(message: SentMessage) -> SentMessage:
    """The message without the white space that histories are told apart without (``proxy.history``): with more of it
    the same message is no news, and is not judged again."""
    text = message.text
    bare = "".join(text.split()) if message.role == ASSISTANT else text.strip()
    return message if bare == text else msgspec.structs.replace(message, text=bare)


def _places(message: SentMessage) -> Sequence[int]:
    """Where in its text the characters of :func:`_bare` stand."""
    text = message.text
    if message.role == ASSISTANT:
        return [at for at, character in enumerate(text) if not character.isspace()]
    return range(len(text) - len(text.lstrip()), len(text.rstrip()))


def _kept(message: SentMessage, change: TextChange) -> list[tuple[str, TextChange]]:
    """What is remembered of a change: of the message as it is, and of it without that white space."""
    bare = _bare(message)
    if bare is message:
        return [(mark(message), change)]
    places = _places(message)
    spans = [(bisect_left(places, start), bisect_left(places, end), words) for start, end, words in change.spans]
    there = tuple(span for span in spans if span[0] < span[1])
    return [(mark(bare), TextChange(there, change.whole)), (mark(message), change)]


def _known(changes: Mapping[str, TextChange], message: SentMessage) -> TextChange | None:
    """What is to become of a message that was changed before, with whatever white space it comes back."""
    exact = changes.get(mark(message))
    if exact is not None or (bare := _bare(message)) is message or (known := changes.get(mark(bare))) is None:
        return exact
    places = _places(message)
    spans = ((places[start], places[end - 1] + 1, words) for start, end, words in known.spans)
    return TextChange(tuple(spans), known.whole)


def _made(x: Exchange, body: bytes, changes: Mapping[int, TextChange]) -> tuple[bytes, ChatRequest]:
    view = x.request
    new = rewrite(x.dialect.api, body, view, changes)
    again = x.dialect.request(read(new))
    if isinstance(again, Coerced | UpstreamRefuses):
        raise Unspliceable("it would not be a request any more")
    before = len(view.messages) - len(again.messages)
    wanted = [_wanted(one, changes.get(at)) for at, one in enumerate(view.messages)]
    if before < 0 or [_said(one) for one in again.messages] != [_said(one) for one in wanted[before:]]:
        raise Unspliceable("it would say something else than it should")
    return new, msgspec.structs.replace(view, messages=tuple(wanted))


def _wanted(message: SentMessage, change: TextChange | None) -> SentMessage:
    if change is None:
        return message
    media = () if change.whole is not None else message.media
    return msgspec.structs.replace(message, text=change.of(message.text), media=media)


def _said(message: SentMessage) -> SentMessage:
    """A message without the new lines between the strings that it is joined from: one that is empty is left out."""
    return msgspec.structs.replace(message, text=message.text.replace("\n", ""))
