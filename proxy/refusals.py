"""Refusing a request before it is forwarded: one exception, one answer (contract C5)."""

from __future__ import annotations

from aiohttp import web

from serving.wire.errors import CODES, refuse, shape_of


class Refuse(Exception):
    """The request goes no further. ``code`` is one of ``serving.wire.errors.CODES``, which also sets the status.

    ``str()`` is the message for the caller: constant text, never traffic. ``param`` names the field at fault;
    ``rule`` is the policy rule or detector, for the record; ``retry_after`` is in seconds.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        rule: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = CODES[code].status
        self.param = param
        self.rule = rule
        self.retry_after = retry_after


def refusal_answer(refusal: Refuse, path: str) -> web.Response:
    """The error shape of the API at ``path`` with a stable code, and the headers that keep SDKs from retrying
    into it."""
    answer = refuse(
        refusal.code,
        str(refusal),
        param=refusal.param,
        retry_after=refusal.retry_after,
        shape=shape_of(path),
    )
    return web.Response(status=answer.status, body=answer.body, headers=answer.headers)
