"""Makes equal what a server makes anew for each answer, and nothing else.

Masked are, by their shape: random ids of vLLM where they are a whole JSON string (``"chatcmpl-tool-`` and sixteen or
thirty-two hex digits), the random ``signature`` of a Messages thinking block, and the seconds in ``created``,
``created_at`` and ``completed_at``. An id becomes its number in the order of appearance among those of its kind, so
that an answer in which two ids that should be one are two still differs. A value of any other shape stays as it is.
What is masked keeps its length: places in the masked body are places in the body.
"""

from __future__ import annotations

import re

_RANDOM = re.compile(
    rb'"(chatcmpl-(?:tool-)?|cmpl-|resp_|rs_|msg_|fc_|ctc_|call_|mcp_|tool_|modelperm-)([0-9a-f]{32}|[0-9a-f]{16})"'
)
_SIGNATURE = re.compile(rb'("signature" ?: ?")[0-9a-f]{32}(?=")')
_SECONDS = re.compile(rb'("(?:created|created_at|completed_at)" ?: ?)1[0-9]{9}(?![0-9.])')
_DATE = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")


def masked(body: bytes) -> bytes:
    """``body`` with what is random in it made equal; of the same length."""
    numbers: dict[bytes, dict[bytes, int]] = {}

    def number(match: re.Match[bytes]) -> bytes:
        kind, random = match.groups()
        known = numbers.setdefault(kind, {})
        return b'"%s%0*d"' % (kind, len(random), known.setdefault(random, len(known) + 1))

    body = _RANDOM.sub(number, body)
    body = _SIGNATURE.sub(rb"\g<1>" + b"0" * 32, body)
    return _SECONDS.sub(rb"\g<1>1000000000", body)


def masked_header(name: str, value: str, authority: str) -> str:
    """A header's value: a well-formed date is masked, and the server's own address where it stands in it."""
    if name == "date" and _DATE.fullmatch(value):
        return "<date>"
    return value.replace(authority, "<host>") if name == "location" else value
