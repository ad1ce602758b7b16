"""A request whose body is at hand, sent to the model server without what aiohttp does for everybody else.

aiohttp makes a copy of the headers, a payload object, a stream writer and a task for each request, and looks at
cookies, redirects, proxies and credentials. Nothing of that applies to what is carried: the headers are the client's,
the body is whole, and both leave in one write. Connections, the reading of the answer and all errors stay aiohttp's.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from aiohttp import hdrs
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.helpers import TimerNoop
from aiohttp.http_writer import _serialize_headers
from multidict import CIMultiDict
from yarl import URL

_AT_ONCE = 64 * 1024  # bytes of a body that are copied behind the head


class _Written:
    """What an answer wants to know of the writer of its request."""

    output_size = 0


_WRITTEN: Any = _Written()
_NO_TIMER = TimerNoop()


def is_plain(method: str, headers: CIMultiDict[str], body: object) -> bool:
    """Whether aiohttp would send just these headers and this body. It puts ``Host`` in front, once, and says a body's
    length where the caller does not."""
    return (
        isinstance(body, bytes)
        and method == hdrs.METH_POST
        and next(iter(headers), "").lower() == "host"
        and len(headers.getall(hdrs.HOST)) == 1
        and headers.getall(hdrs.CONTENT_LENGTH, ()) == [str(len(body))]
    )


class PlainRequest(ClientRequest):
    """``headers`` and ``body`` as they leave (:func:`is_plain`)."""

    proxy = None
    proxy_auth = None
    proxy_headers = None
    server_hostname = None
    _ssl = True

    def __init__(
        self,
        method: str,
        url: URL,
        *,
        headers: CIMultiDict[str],
        body: bytes,
        session: aiohttp.ClientSession,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.method = method
        self.url = self.original_url = url
        self.headers = headers
        self.loop = loop
        self._session = session
        self._bytes = body
        self._traces = []

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        protocol = conn.protocol
        assert protocol is not None
        head = _serialize_headers(f"{self.method} {self.url.raw_path_qs} HTTP/1.1", self.headers)
        transport = protocol.transport
        if transport is None or transport.is_closing():
            raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")
        if len(self._bytes) <= _AT_ONCE:
            transport.write(head + self._bytes)
        else:
            transport.writelines((head, self._bytes))
        self._bytes = b""
        protocol.start_timeout()
        return aiohttp.ClientResponse(
            self.method,
            self.original_url,
            writer=None,
            continue100=None,
            timer=_NO_TIMER,
            request_info=self.request_info,
            traces=self._traces,
            loop=self.loop,
            session=self._session,
            stream_writer=_WRITTEN,
        )


class PlainSender:
    """Sends plain requests by the connections of ``session``; ``response`` are the limits of what is read."""

    def __init__(self, session: aiohttp.ClientSession, timeout: aiohttp.ClientTimeout, **response: int) -> None:
        assert session.connector is not None
        self._session = session
        self._connector = session.connector
        self._timeout = timeout
        self._response: dict[str, Any] = response
        self._loop = asyncio.get_running_loop()

    async def ask(self, url: URL, headers: CIMultiDict[str], body: bytes) -> aiohttp.ClientResponse:
        """The answer, when its head is there. Raises what ``aiohttp.ClientSession.post`` does."""
        request = PlainRequest(hdrs.METH_POST, url, headers=headers, body=body, session=self._session, loop=self._loop)
        try:
            return await self._sent(request)
        except aiohttp.ClientError:
            raise
        except OSError as problem:
            if problem.errno is None and isinstance(problem, TimeoutError):
                raise
            raise aiohttp.ClientOSError(*problem.args) from problem

    async def _sent(self, request: PlainRequest) -> aiohttp.ClientResponse:
        try:
            conn = await self._connector.connect(request, traces=[], timeout=self._timeout)
        except TimeoutError as problem:
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {request.url}") from problem
        assert conn.protocol is not None
        try:
            conn.protocol.set_response_params(
                timer=_NO_TIMER,
                read_until_eof=True,
                auto_decompress=False,
                read_timeout=self._timeout.sock_read,
                timeout_ceil_threshold=self._connector._timeout_ceil_threshold,
                **self._response,
            )
            answer = await request.send(conn)
            try:
                await answer.start(conn)
            except BaseException:
                answer.close()
                raise
        except BaseException:
            conn.close()
            raise
        return answer
