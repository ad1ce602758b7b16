"""What Interlock asks the model server for beyond the client's own request: logprobs for policies that read them,
usage for budgets that must be exact. Coverage says where that is not to be had."""

from __future__ import annotations

import json
from http import HTTPStatus

import aiohttp
from aiohttp import hdrs
from multidict import CIMultiDict

from proxy.exchange import Exchange
from serving.wire.injection import Fingerprint, Injected, Uninjector, can_show_logprobs, inject
from serving.wire.splice import Unspliceable

_NOT_SHOWN = "unjudged: not to be had: answers to such a request show none for tool calls"


class Injecting:
    """For one model server."""

    def __init__(self) -> None:
        self._fingerprint = Fingerprint()

    def into(self, x: Exchange, body: bytes) -> Injected | None:
        """The body to send in place of ``body``; None if nothing more is to be asked for."""
        usage = x.admitted is not None and x.admitted.lease.binding
        logprobs = x.judge.wants_logprobs and x.request.calls_possible
        if not usage and not logprobs:
            return None
        api = x.dialect.api
        if logprobs and not x.request.logprobs and not can_show_logprobs(api, x.request):
            x.coverage["logprobs"] = _NOT_SHOWN
        try:
            return inject(api, body, x.request, logprobs=logprobs, usage=usage)
        except Unspliceable:  # vLLM takes more bodies than the splice does; such a one goes as it is
            x.coverage["injection"] = "nothing was asked for: the body cannot be changed where it stands"
            return None

    def undo(self, x: Exchange, injected: Injected) -> Uninjector:
        return Uninjector(injected, x.request, self._fingerprint)

    @staticmethod
    async def status_of(x: Exchange, answer: aiohttp.ClientResponse) -> int:
        """The status with which the model server answers. Of a stream that it refuses, vLLM says so in the first event,
        behind a 200; the bytes read to see that are kept in ``x.ahead``."""
        kind = answer.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
        if answer.status != HTTPStatus.OK or kind != "text/event-stream":
            return answer.status
        try:
            x.ahead = await answer.content.readany()
        except aiohttp.ClientError:
            return answer.status  # whoever reads on will meet it again
        reader, _ = x.dialect.stream(x.request)
        events = reader.feed(x.ahead)
        if not events or events[0].kind != "error":
            return answer.status
        status = _code_of(events[0].error)
        if 400 <= status < 500:
            x.ahead = b""
        return status

    @staticmethod
    def refused(x: Exchange, injected: Injected, status: int) -> None:
        """The model server does not take the injected request; the raw one is sent."""
        if injected.logprobs:
            x.coverage["logprobs"] = "unjudged: the model server takes no request for them"
        asked = " and ".join(name for name, was in (("logprobs", injected.logprobs), ("usage", injected.usage)) if was)
        x.coverage["injection"] = f"the request for {asked} was answered with {status}; the raw one was sent"


def _code_of(error: object) -> int:
    """The ``code`` of an error object, 500 if it has none."""
    try:
        said = json.loads(error) if isinstance(error, bytes) else error
    except ValueError:
        return HTTPStatus.INTERNAL_SERVER_ERROR
    code = said.get("code") if isinstance(said, dict) else None
    return code if isinstance(code, int) else HTTPStatus.INTERNAL_SERVER_ERROR


def resized(headers: CIMultiDict[str], body: bytes) -> CIMultiDict[str]:
    """The headers for ``body`` in place of the body that they came with."""
    changed = headers.copy()
    if hdrs.CONTENT_LENGTH in changed:
        changed[hdrs.CONTENT_LENGTH] = str(len(body))
    return changed
