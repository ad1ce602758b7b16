"""Sends one request over a socket of its own, and keeps the answer's bytes. No HTTP library is between."""

from __future__ import annotations

import asyncio
import os
import ssl
from dataclasses import dataclass
from time import perf_counter
from urllib.parse import urlsplit

from proxy.contract.answer import Answer, NoAnswer, Reader

AGENT = "interlock-contract"


@dataclass(frozen=True, slots=True)
class Request:
    """A request but for what depends on where it goes. ``path`` begins with ``/`` and may have a query."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    chunked: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A server: where it is, and the key that it wants (sent as ``Authorization: Bearer``)."""

    host: str
    port: int
    tls: bool = False
    prefix: str = ""
    key: str | None = None

    @classmethod
    def of(cls, url: str, key: str | None = None) -> Target:
        """From a base URL, with or without its ``/v1``. Raises ValueError where it is none."""
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url}: an http or https URL is needed")
        tls = parts.scheme == "https"
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, prefix, key)

    @property
    def authority(self) -> str:
        """What stands in ``Host``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.prefix}"


def raw(request: Request, target: Target) -> bytes:
    """The bytes that are sent."""
    lines = [f"{request.method} {target.prefix}{request.path} HTTP/1.1", f"Host: {target.authority}"]
    lines += [f"User-Agent: {AGENT}", "Accept: */*", "Connection: close"]
    if target.key is not None:
        lines.append(f"Authorization: Bearer {target.key}")
    lines += [f"{name}: {value}" for name, value in request.headers]
    body = request.body
    if body is not None and request.chunked:
        lines.append("Transfer-Encoding: chunked")
        parts = [part for part in (body[:20], body[20:]) if part]
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    elif body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


async def ask(target: Target, request: Request, seconds: float) -> Answer:
    """Send it and wait for the whole answer. Raises :class:`NoAnswer` after ``seconds`` without its end, too."""
    try:
        async with asyncio.timeout(seconds):
            return await _ask(target, request)
    except TimeoutError:
        raise NoAnswer(f"no whole answer within {seconds:g} s") from None
    except ssl.SSLError as error:
        raise NoAnswer(f"TLS: {error.reason or error}") from None
    except OSError as error:
        raise NoAnswer(os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)) from None


async def _ask(target: Target, request: Request) -> Answer:
    context = ssl.create_default_context() if target.tls else None
    reader, writer = await asyncio.open_connection(target.host, target.port, ssl=context)
    try:
        answer = Reader(request.method)
        sent = perf_counter()
        writer.write(raw(request, target))
        while not answer.whole:
            try:
                data = await reader.read(65536)
            except ConnectionError:
                break  # what came before it counts
            if not data:
                break
            answer.feed(data, perf_counter() - sent)
        return answer.answer()
    finally:
        writer.transport.abort()
