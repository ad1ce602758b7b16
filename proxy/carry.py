"""The HTTP mechanics of carrying one exchange unchanged: contract C1, C2, C6 and C8 for headers and bodies.

aiohttp adds, drops and rewrites things that a proxy must leave alone; every such habit is turned off here and
nowhere else. What cannot be carried unchanged (header bytes that are not UTF-8) is refused, never altered.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Iterable, Set
from http import HTTPStatus
from typing import Any, cast

import aiohttp
from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import should_remove_content_length
from aiohttp.http import HttpVersion11, StreamWriter
from multidict import CIMultiDict
from yarl import URL

from proxy.flow import Answering, Content
from proxy.plain_request import PlainSender, is_plain
from serving.settings import LimitSettings, UpstreamSettings
from serving.wire.errors import refuse, shape_of

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_OWN_PREFIX = "x-interlock-"
_WAITING = 16 * 1024  # bytes on each side of us beyond which no more is taken, about
_NAMES_KEPT = 512
_UNSENT = 64 * 1024  # bytes that the system takes from us for a client before it sends them


class Uncarriable(Exception):
    """A header that cannot be passed on unchanged; ``str()`` names it."""


class UpstreamUnreachable(Exception):
    """The model server did not take the connection; nothing was sent to it."""


def _end_to_end(raw_headers: Iterable[tuple[bytes, bytes]], connection: Iterable[str]) -> CIMultiDict[str]:
    drop: Set[str] = HOP_BY_HOP
    for listed in connection:
        if listed.lower() not in ("keep-alive", "close"):
            drop = drop | {token.strip().lower() for token in listed.split(",") if token.strip()}
    headers: list[tuple[str, str]] = []
    spelt: dict[str, str] = {}  # aiohttp's client loses duplicates whose names are spelt differently
    for name, value in raw_headers:
        try:
            key, lower = _NAMES.get(name) or _name(name)
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            shown = name.decode("ascii", "backslashreplace")
            raise Uncarriable(f"The header {shown!r} has bytes that are not UTF-8.") from None
        if lower not in drop:
            headers.append((spelt.setdefault(lower, key), text))
    return CIMultiDict(headers)


_NAMES: dict[bytes, tuple[str, str]] = {}


def _name(name: bytes) -> tuple[str, str]:
    """A header's name as it is spelt, and in lower case; remembered."""
    key = name.decode("ascii")
    if len(_NAMES) >= _NAMES_KEPT:
        _NAMES.clear()
    found = _NAMES[name] = key, key.lower()
    return found


def request_headers(request: web.BaseRequest) -> CIMultiDict[str]:
    """The caller's end-to-end headers, order and duplicates kept, without Interlock's own and without
    ``Expect``, which is answered here. Raises :class:`Uncarriable`."""
    headers = _end_to_end(request.raw_headers, request.headers.getall(hdrs.CONNECTION, ()))
    for name in [key for key in headers if key[:2] in ("x-", "X-") and key.lower().startswith(_OWN_PREFIX)]:
        headers.popall(name, None)
    if hdrs.EXPECT in headers:
        headers.popall(hdrs.EXPECT)
    return headers


def answer_headers(answer: aiohttp.ClientResponse) -> CIMultiDict[str]:
    """The model server's end-to-end headers. Raises :class:`Uncarriable`."""
    return _end_to_end(answer.raw_headers, answer.headers.getall(hdrs.CONNECTION, ()))


class _Request(aiohttp.ClientRequest):
    """A request without a body says nothing about its length if the caller said nothing."""

    def update_body_from_data(self, body: Any, _stacklevel: int = 3) -> None:
        said = hdrs.CONTENT_LENGTH in self.headers
        super().update_body_from_data(body, _stacklevel + 1)
        if body is None and not said:
            self.headers.popall(hdrs.CONTENT_LENGTH, None)


class Upstream:
    """Connections to the model server."""

    def __init__(self, settings: UpstreamSettings, limits: LimitSettings) -> None:
        self._base = settings.url.rstrip("/")
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=settings.keepalive_seconds, ttl_dns_cache=30)
        handler: type[ResponseHandler] = Answering
        connector._factory = functools.partial(handler, loop=asyncio.get_running_loop())
        timeout = aiohttp.ClientTimeout(total=settings.total_seconds, sock_connect=settings.connect_seconds)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=(hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.USER_AGENT, hdrs.CONTENT_TYPE),
            timeout=timeout,
            max_line_size=limits.header_bytes,
            max_field_size=limits.header_bytes,
            max_headers=limits.header_count,
            requote_redirect_url=False,
            read_bufsize=_WAITING,
            request_class=_Request,
        )
        self._plain = PlainSender(
            self._session,
            timeout,
            max_line_size=limits.header_bytes,
            max_field_size=limits.header_bytes,
            max_headers=limits.header_count,
            read_bufsize=_WAITING,
        )
        self._timed = settings.total_seconds is not None

    async def open(
        self, method: str, target: str, headers: CIMultiDict[str], body: bytes | aiohttp.StreamReader | None
    ) -> aiohttp.ClientResponse:
        """Send the request once and return when the answer's head is there. ``target`` is the raw path and
        query. Raises :class:`UpstreamUnreachable`, or ``aiohttp.ClientError`` when it broke later."""
        try:
            url = URL(self._base + target, encoded=True)
            if isinstance(body, bytes) and not self._timed and is_plain(method, headers, body):
                answer = await self._plain.ask(url, headers, body)
            else:
                answer = await self._session.request(
                    method, url, headers=headers, data=body or None, allow_redirects=False
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise UpstreamUnreachable(type(error).__name__) from error
        Content.of(answer)
        return answer

    async def close(self) -> None:
        await self._session.close()


class CarriedRequest(web.BaseRequest):
    """A request whose answers do not say what made them."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers.popall(hdrs.SERVER, None)


class _Carried(web.StreamResponse):
    """A response with no header that the model server did not send, but for the framing."""

    async def _start(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """As aiohttp's, without what it adds."""
        self._req = request
        writer = self._payload_writer = cast(StreamWriter, request._payload_writer)
        headers, modern = self._headers, request.version >= HttpVersion11
        keep_alive = request.keep_alive if self._keep_alive is None else self._keep_alive
        self._keep_alive = keep_alive
        writer.length = self.content_length
        if self._must_be_empty_body:
            if hdrs.CONTENT_LENGTH in headers and should_remove_content_length(request.method, self.status):
                del headers[hdrs.CONTENT_LENGTH]
        elif writer.length is None:
            if modern:
                writer.enable_chunking()
                headers[hdrs.TRANSFER_ENCODING] = "chunked"
            else:
                keep_alive = False
        if not keep_alive and modern:
            headers[hdrs.CONNECTION] = "close"
        elif keep_alive and not modern:
            headers[hdrs.CONNECTION] = "keep-alive"
        await self._write_headers()
        return writer


class _WithBody(_Carried):
    """A response whose head leaves in one write with the first bytes of its body."""

    _send_headers_immediately = False


def answer_like(answer: aiohttp.ClientResponse, *, body_at_hand: bool = False) -> web.StreamResponse:
    """A response with the status, reason and headers of ``answer`` and no body yet. ``body_at_hand``: the head
    need not leave before the body does, because that follows at once."""
    made = _WithBody if body_at_hand else _Carried
    return made(status=answer.status, reason=answer.reason, headers=answer_headers(answer))


class _Connection(web.RequestHandler):
    """One client connection; errors of the HTTP parser are told in the JSON dialect."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """What a client does not read waits at the model server, not in a send buffer that grows to megabytes."""
        super().connection_made(transport)
        cast(asyncio.Transport, transport).set_write_buffer_limits(_WAITING)
        client = transport.get_extra_info("socket")
        if client is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            with contextlib.suppress(OSError):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("The answer has begun; it cannot become an error any more.")
        if isinstance(exc, ConnectionError):
            raise exc  # one of the two sides is gone and the connection ends with it: no fault of ours to log
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self.log_exception("unhandled error", exc_info=exc)
            answer = refuse("internal_error", "Interlock failed on this request.", shape=shape_of(request.raw_path))
        else:
            answer = refuse("malformed_http", "The request is not HTTP that can be carried.")
        response = web.Response(status=status, body=answer.body, headers=answer.headers)
        response.force_close()
        return response


class CarryingServer(web.Server):
    """aiohttp's low-level server without a router: the endpoint table decides what a path is."""

    def __init__(self, handler: Any, limits: LimitSettings) -> None:
        loop = asyncio.get_running_loop()

        def factory(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> CarriedRequest:
            return CarriedRequest(message, payload, protocol, writer, task, loop, client_max_size=0)

        super().__init__(handler, request_factory=factory, handler_cancellation=True)
        self._options: dict[str, Any] = {
            "auto_decompress": False,
            "access_log": None,
            "keepalive_timeout": 75.0,
            "max_line_size": limits.header_bytes,
            "max_field_size": limits.header_bytes,
            "max_headers": limits.header_count,
            "lingering_time": 2.0,
        }

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._options)
