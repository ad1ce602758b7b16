"""Answers that the model server may keep, so that a later request names one instead of sending it again.

The Responses API lets a client go on from an answer (``previous_response_id``), fetch one and cancel one, all by an id.
What stands behind the id is the model server's to know; the judge sees it only if it was seen when it was made. So
each such answer is remembered: whose it is, which run it belongs to, what was asked with all that came before, what
the client was given, and what became of its calls, so that every copy of it shows the same.

The book is bounded by bytes; what was not asked for longest is forgotten first. It is this process's alone. An id
that it does not know, or that is another agent's, is refused where a policy in force would have to see what is
behind it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence, Set
from urllib.parse import quote, unquote_plus

import msgspec

from proxy.exchange import Exchange, Kept
from proxy.refusals import Refuse
from serving.sizes import bytes_of
from serving.wire.request import ChatRequest, SentCall, SentMessage

_OVERHEAD = 512  # bytes of a message beside its texts, about
_NUMBER = re.compile(r"[0-9]{1,9}")

_UNKNOWN = (
    "Interlock does not know the answer that {what} names: it is another agent's, was made before Interlock started or "
    "by another worker of it, or is forgotten by now. A policy in force must see what is behind the id."
)
_UNFINISHED = (
    "The answer that {what} names was not given whole: it was cut, or is not fetched yet (GET /v1/responses/{{id}}). A "
    "policy in force must see what the model would read. Fetch it first, or send the conversation in `input`."
)


class Fetch(msgspec.Struct, frozen=True):
    """A request for an answer that was made before. ``target`` is what to ask the model server for; the client has had
    the events up to number ``after``."""

    answer_id: str
    target: str
    after: int | None = None


class AnswerBook:
    """``limit`` is in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, tuple[Kept, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, answer_id: str, agent: str) -> Kept | None:
        """What is known of an answer. Raises ``Refuse`` if it is another agent's."""
        found = self._kept.get(answer_id)
        if found is None:
            return None
        if found[0].agent != agent:
            raise unknown("the path")
        self._kept.move_to_end(answer_id)
        return found[0]

    def resume(
        self, agent: str, view: ChatRequest, surfaces: Set[str]
    ) -> tuple[ChatRequest, str | None, dict[str, str]]:
        """The request with the conversation that it goes on from, that conversation's run, and what policies that only
        record cannot see (field → what). Raises ``Refuse`` for what an enforcing policy (of ``surfaces``) must see."""
        taken = self._kept.get(view.answer_id) if view.answer_id is not None else None
        if taken is not None and (surfaces or taken[0].agent != agent):
            raise Refuse("ambiguous_field", "`request_id` names an answer that there is already.", param="request_id")
        if view.previous is None:
            return view, None, {}
        found = self._kept.get(view.previous)
        if found is not None and found[0].agent == agent and found[0].given is not None:
            self._kept.move_to_end(view.previous)
            kept = found[0]
            view = msgspec.structs.replace(view, messages=_continued(kept, view.messages))
            return view, kept.sighting.run.id, {}
        if found is not None and found[0].agent != agent:
            raise unknown("`previous_response_id`")
        if not surfaces.isdisjoint(("request", "tool_result")):
            raise unknown("`previous_response_id`", unfinished=found is not None)
        return view, None, {"previous_response_id": "unseen: hides request, tool_result"}

    def begun(self, x: Exchange) -> None:
        """The answer of ``x`` has an id: it may be asked for from now on."""
        answer_id = x.seen.answer_id or x.request.answer_id
        if x.fetched or not x.request.stored or answer_id is None:
            return
        if x.kept is None:
            x.kept = Kept(answer_id, x.agent, x.request, x.sighting)
        elif x.kept.id != answer_id:
            self.forget(x)
            x.kept.id = answer_id
        x.kept.outcomes |= {index: outcome for (_, index), outcome in x.outcomes.items()}
        self._put(x.kept)

    def given(self, x: Exchange, text: str, calls: Iterable[tuple[str | None, str, str]]) -> None:
        """The answer is as its client has it. Of one that was cut, the model server may keep what nobody was given."""
        self.begun(x)
        if x.kept is not None and x.cut_text is None:
            x.kept.given = SentMessage("assistant", text, calls=tuple([SentCall(*call) for call in calls]))
            self._put(x.kept)

    def forget(self, x: Exchange) -> None:
        """The model server did not make it, or not to its end."""
        if x.kept is not None and not x.fetched and x.kept.given is None:
            self._drop(x.kept.id)

    def _put(self, kept: Kept) -> None:
        self._drop(kept.id)
        kept.asked_bytes = kept.asked_bytes or _size(kept.request.messages) + _beside(kept.request)
        size = kept.asked_bytes + _size((kept.given,) if kept.given else ())
        self._kept[kept.id] = (kept, size)
        self._bytes += size
        while self._bytes > self._limit and self._kept:
            self._drop(next(iter(self._kept)))

    def _drop(self, answer_id: str) -> None:
        found = self._kept.pop(answer_id, None)
        if found is not None:
            self._bytes -= found[1]


def unknown(what: str, *, unfinished: bool = False) -> Refuse:
    """The refusal of an id behind which nobody can look. ``what`` holds it, for the client."""
    return Refuse("unknown_response", (_UNFINISHED if unfinished else _UNKNOWN).format(what=what))


def read_fetch(target: str) -> Fetch:
    """What ``GET /v1/responses/{id}`` and ``POST …/cancel`` ask for; ``target`` as it stood on the wire.

    ``starting_after`` counts the events that the client was *given*, which need not be the model server's: so it is
    asked for all of them, and those that the client has had are left out. Raises ``Refuse`` for a number that might be
    read in more than one way.
    """
    path, mark, query = target.partition("?")
    answer_id = path.split("/")[3]
    fields = [field for field in query.split("&") if mark]
    named = [field for field in fields if unquote_plus(field.partition("=")[0]) == "starting_after"]
    if not named:
        return Fetch(answer_id, target)
    number = unquote_plus(named[0].partition("=")[2])
    if len(named) > 1 or _NUMBER.fullmatch(number) is None:
        if len(named) == 1 and not any(character.isdigit() for character in number):
            return Fetch(answer_id, target)  # the model server says so itself
        raise Refuse("ambiguous_field", "`starting_after` must be one plain number.", param="starting_after")
    left = "&".join(field for field in fields if field is not named[0])
    return Fetch(answer_id, f"{path}?{left}" if left else path, int(number))


def cancel_path(answer_id: str) -> str:
    return f"/v1/responses/{quote(answer_id, safe='')}/cancel"


def _continued(kept: Kept, messages: Sequence[SentMessage]) -> tuple[SentMessage, ...]:
    """The conversation as the model server puts it together: instructions do not carry over from one to the next."""
    own = next((at for at, message in enumerate(messages) if message.role != "system"), len(messages))
    before = [message for message in kept.request.messages if message.role != "system"]
    assert kept.given is not None
    return (*messages[:own], *before, kept.given, *messages[own:])


def _size(messages: Iterable[SentMessage]) -> int:
    return sum(
        _OVERHEAD
        + 4 * (len(message.text) + len(message.reasoning or ""))
        + sum(_OVERHEAD + 4 * len(call.arguments) for call in message.calls)
        for message in messages
    )


def _beside(request: ChatRequest) -> int:
    """What a request takes beside its messages."""
    tools = [[tool.name, tool.description, tool.parameters] for tool in request.tools]
    return bytes_of([tools, request.sampling, request.tool_choice, request.model])
