"""A run that a file tells: what is known of it when the exchange at hand comes, by the very book that stitches runs."""

from __future__ import annotations

from collections.abc import Sequence

from policies.facts.tool_digests import digests
from proxy.runs import RunBook, Sighting
from serving.settings import BreakerSettings
from serving.wire.dialect import WholeAnswer
from serving.wire.request import ChatRequest

_KEY = b"a file's run"


class NotOneRun(ValueError):
    """A request does not go on with what was answered before it."""


def followed(agent: str, earlier: Sequence[tuple[ChatRequest, WholeAnswer]], request: ChatRequest) -> Sighting:
    """The request as the next exchange of the run that ``earlier`` is. Raises :class:`NotOneRun`."""
    book = RunBook(BreakerSettings(), lambda: 0.0, lambda: "file", _KEY)
    run = None
    for nth, (asked, answer) in enumerate(earlier, 1):
        seen = book.identify(agent, asked, None, digests(asked.tools))
        if run is not None and seen.run is not run:
            raise NotOneRun(f"earlier, the {nth}.: does not go on with what was answered before it")
        run = seen.run
        for choice in answer.choices:
            book.left(seen, choice.text, [(call.id, call.name, call.arguments) for call in choice.calls])
        used = answer.usage
        book.settled(run, used.prompt + used.completion if used is not None else 0, 0.0)
    seen = book.identify(agent, request, None, digests(request.tools))
    if run is not None and seen.run is not run:
        raise NotOneRun("request: does not go on with what was answered earlier")
    return seen
