"""How a question is put to a check's server over HTTP: a POST of JSON, and every way in which it can fail named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import aiohttp
import msgspec

from checks.verdict import CheckFailed

_ANSWER_BYTES = 4 * 1024 * 1024
_Answer = TypeVar("_Answer")


def check_session(concurrency: int) -> aiohttp.ClientSession:
    """A session fit for checks: idle connections end before uvicorn ends them (5 s), no cookies, and no time-outs but
    for connecting, because the scheduler keeps the time."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrency, keepalive_timeout=3.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0),
    )


def bearer(token: str | None) -> dict[str, str]:
    """The headers of a question; ``token`` is sent as a bearer token."""
    headers = {"Content-Type": "application/json"}
    return headers if token is None else headers | {"Authorization": f"Bearer {token}"}


async def post(
    session: aiohttp.ClientSession, url: str, question: Mapping[str, object], headers: Mapping[str, str]
) -> tuple[int, bytes]:
    """Status and body of the answer. ``CheckFailed``: ``connect``, ``connection lost``, ``answer too long``."""
    try:
        async with session.post(
            url, data=msgspec.json.encode(question), headers=headers, allow_redirects=False
        ) as answer:
            body = bytearray()
            async for part in answer.content.iter_chunked(64 * 1024):
                body += part
                if len(body) > _ANSWER_BYTES:
                    raise CheckFailed("answer too long")
            return answer.status, bytes(body)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise CheckFailed("connect") from None
    except (aiohttp.ClientError, OSError):
        raise CheckFailed("connection lost") from None


def read_answer(body: bytes, shape: type[_Answer]) -> _Answer:
    """What the answer says. ``CheckFailed``: ``shape``, ``bad json``."""
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError:
        raise CheckFailed("shape") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise CheckFailed("bad json") from None
