"""Our own refusals of a request that has not been forwarded, in the shape of the API's errors.

How to think about it: a client must tell three things apart by machine. *Which* refusal it is says ``code``, a
stable string of ours (vLLM's own errors carry a number there). *Whose* fault it is says the HTTP status, from
which SDKs choose their exception. *Whether to come again* say ``Retry-After`` and ``x-should-retry``: OpenAI's
and Anthropic's SDKs repeat a request after 429 and 5xx by themselves, which must not happen into a breaker or a
spent budget, nor where the model would run once more for an answer that cannot be judged.

Error type and headers follow from status and code; whoever refuses brings the sentence for people. The path of the
request says which API's shape the error has (:func:`shape_of`).
:data:`CODES` is the whole list, for the documentation and for whoever switches on a code.
"""

from __future__ import annotations

import json
import math
from typing import Literal
from urllib.parse import unquote

import msgspec

Headers = tuple[tuple[str, str], ...]
Shape = Literal["openai", "anthropic"]

RETRY_AFTER = 1.0
"""Seconds for ``Retry-After`` where whoever refuses knows no better."""


class Code(msgspec.Struct, frozen=True):
    """A stable code: the status that it comes with, and what it means."""

    status: int
    meaning: str


CODES: dict[str, Code] = {
    # 400, 413: the request can be read in more than one way, or not at all
    "malformed_http": Code(400, "The request is not HTTP that can be carried."),
    "uncarriable_header": Code(400, "A header cannot be handed on unchanged."),
    "encoded_body": Code(400, "The body is compressed, so it cannot be judged. Send it plain."),
    "ambiguous_body": Code(
        400,
        "The body is JSON that two parsers may read differently: a key twice, another encoding than UTF-8, NaN, a "
        "number beyond every double or 64-bit integer, half of a surrogate pair, or nesting beyond the limit.",
    ),
    "ambiguous_field": Code(
        400, "The model server would coerce a field's value. `param` names the field, the message its type."
    ),
    "endpoint_spelling": Code(400, "A judged path is written in another than its plain spelling."),
    "body_too_large": Code(413, "The body is larger than the limit in the settings."),
    # 401, 403: understood, and not allowed
    "invalid_api_key": Code(401, "The request names no agent that the settings know."),
    "policy_denied": Code(403, "A policy denied the request. The message names the rule."),
    "run_killed": Code(403, "An operator stopped this run, agent, team or everything."),
    "unjudged_endpoint": Code(403, "The path makes tokens that are not judged; `unjudged` can allow it."),
    "control_endpoint": Code(403, "The path steers the model server; the settings can list it."),
    "unknown_response": Code(
        404, "The id of an earlier answer behind which Interlock cannot look, as a policy in force must."
    ),
    "hidden_surface": Code(403, "A field would hide something from a policy in force. `param` names it."),
    # 429: not now, and not by itself
    "budget_exhausted": Code(429, "A budget of this run, agent or team is spent. The message says which."),
    "loop_detected": Code(429, "The run repeats the same calls with the same results and was stopped."),
    "breaker_open": Code(429, "The run was stopped earlier and has not been released."),
    # 5xx: not the caller's doing
    "internal_error": Code(500, "Interlock failed on this request; its log says how."),
    "upstream_unreachable": Code(502, "No connection to the model server could be made."),
    "upstream_failed": Code(502, "The model server's answer broke off before it began, or cannot be handed on."),
    "unjudged_answer": Code(502, "The model server's answer could not be judged; `unjudged` can allow it."),
    "judge_unavailable": Code(503, "A policy could not be asked, and its `on_error` denies."),
    "record_unavailable": Code(503, "The journal cannot be written, so nothing is let through unrecorded."),
    "admission_unavailable": Code(503, "The keeper of budgets and breakers cannot be reached."),
    "draining": Code(503, "Interlock is stopping and takes no new requests."),
    "upstream_timeout": Code(504, "The model server did not answer in the time that the settings give it."),
}

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    **_TYPES,
    404: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
    504: "timeout_error",
}
_ONCE = frozenset({"unjudged_answer", "upstream_failed", "upstream_timeout"})
"""Codes of 5xx behind which the model server may have done the work: an SDK would have it done again."""


class ErrorAnswer(msgspec.Struct, frozen=True):
    """A whole answer. The server adds ``Content-Length`` and ``Date``."""

    status: int
    headers: Headers
    body: bytes


def shape_of(path: str) -> Shape:
    """Which API's errors a client of ``path`` understands, however the path is spelt."""
    return "anthropic" if "/v1/messages" in unquote(path.partition("?")[0]).lower() else "openai"


def refuse(
    code: str,
    message: str,
    *,
    param: str | None = None,
    retry_after: float | None = None,
    shape: Shape = "openai",
) -> ErrorAnswer:
    """The answer for a refusal with one of :data:`CODES` (KeyError otherwise).

    ``message`` is for people and must not echo blocked text; ``param`` names the field at fault;
    ``retry_after`` is in seconds.
    """
    status = CODES[code].status
    body = (anthropic_body if shape == "anthropic" else error_body)(status, code, message, param=param)
    return ErrorAnswer(status, error_headers(status, code, retry_after), body)


def error_type(status: int) -> str:
    """OpenAI's error type for ``status``."""
    return _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def error_body(status: int, code: str, message: str, *, type_: str | None = None, param: str | None = None) -> bytes:
    """OpenAI's error object, as vLLM writes it but with our ``code``: compact JSON in UTF-8.

    ``type_`` follows from ``status`` unless given.
    """
    error = {"message": message, "type": type_ or error_type(status), "param": param, "code": code}
    return _compact({"error": error})


def anthropic_type(status: int) -> str:
    """Anthropic's error type for ``status``."""
    return _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


def anthropic_body(status: int, code: str, message: str, *, param: str | None = None) -> bytes:
    """Anthropic's error object, as vLLM writes it but with our ``code``, and ``param`` where a field is at fault."""
    error = {"type": anthropic_type(status), "message": message, "code": code}
    if param is not None:
        error["param"] = param
    return _compact({"type": "error", "error": error})


def _compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def error_headers(status: int, code: str, retry_after: float | None = None) -> Headers:
    """``content-type`` and, where it makes sense to come again, ``retry-after`` and ``x-should-retry``.

    ``retry_after`` is in seconds, rounded up to whole ones and at least 1; below 429 it is not sent.
    """
    headers: Headers = (("content-type", "application/json"),)
    if status in (429, 503) or (status >= 500 and retry_after is not None):
        seconds = max(1, math.ceil(RETRY_AFTER if retry_after is None else retry_after))
        headers += (("retry-after", str(seconds)),)
    if status == 429 or code in _ONCE:
        headers += (("x-should-retry", "false"),)
    return headers
