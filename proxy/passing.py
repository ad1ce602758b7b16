"""How bytes pass: a request on to the model server, and an answer that nobody judges back to the client."""

from __future__ import annotations

import logging

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from proxy.carry import Uncarriable, Upstream, UpstreamUnreachable, answer_like
from proxy.refusals import Refuse

_log = logging.getLogger(__name__)


async def open_upstream(
    upstream: Upstream,
    method: str,
    target: str,
    headers: CIMultiDict[str],
    body: bytes | aiohttp.StreamReader | None,
) -> aiohttp.ClientResponse:
    """The model server's answer, not read yet. Raises ``Refuse`` where there is none."""
    try:
        return await upstream.open(method, target, headers, body)
    except UpstreamUnreachable:
        raise Refuse("upstream_unreachable", "The model server cannot be reached.", retry_after=5) from None
    except TimeoutError:
        raise Refuse("upstream_timeout", "The model server did not answer in time.") from None
    except (aiohttp.ClientError, ConnectionError, ValueError) as problem:
        _log.warning("upstream failed before its answer began: %s", type(problem).__name__)
        raise Refuse("upstream_failed", "The model server broke off before it answered.") from None


async def copy(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """Pass an answer on as it comes."""
    try:
        response = like(answer)
        await response.prepare(request)
        try:
            while data := await answer.content.readany():
                await response.write(data)
        except aiohttp.ClientError:
            break_off(request)
            raise ConnectionResetError("upstream broke off") from None
        await response.write_eof()
        return response
    except BaseException:
        answer.close()
        raise


def like(answer: aiohttp.ClientResponse, *, body_at_hand: bool = False) -> web.StreamResponse:
    """A response with the status and headers of ``answer``. Raises ``Refuse`` for those that cannot be carried."""
    try:
        return answer_like(answer, body_at_hand=body_at_hand)
    except Uncarriable as problem:
        answer.close()
        raise Refuse("upstream_failed", str(problem)) from None


def cut_off(request: web.BaseRequest) -> None:
    """The client's connection ends at once, with what it has not taken."""
    if request.transport is not None:
        request.transport.abort()


def break_off(request: web.BaseRequest) -> None:
    """The client sees what a dying server looks like: its connection ends without the body's end."""
    if request.transport is not None:
        request.transport.close()
