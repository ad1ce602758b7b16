"""The bypass corpus: requests that try to show the judge one thing and the model another.

``tests/contract/bypass/*.json`` holds them as data. Each case has a ``name``, what it ``tries``, what is
expected, and one of: ``fields`` (put over a small sound request), ``text`` (the body, in ``encoding``), ``raw``
(the whole request in Latin-1), ``target`` (a small sound request to that target). ``path`` names the endpoint
where it is not chat. ``expect`` is

* ``same``: Interlock reads it, vLLM reads it, and both read the same;
* ``vllm``: vLLM refuses it, and the client gets vLLM's own words;
* a code of ``serving.wire.errors``: Interlock refuses it so, and vLLM never sees it. A list allows for more
  than one outcome, where that hangs on how the HTTP parser was built.

``live: false`` marks a case that the shared vLLM cannot show (it needs a flag, or a template of its own).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multidict import CIMultiDict

from proxy.accept import read_request
from proxy.refusals import Refuse
from serving.wire.request import ChatRequest

FOLDER = Path(__file__).resolve().parents[1] / "contract" / "bypass"
CHAT = "/v1/chat/completions"
SURFACES = frozenset({"request", "reasoning", "text", "tool_call", "tool_result", "logprobs"})
SOUND: dict[str, dict[str, Any]] = {
    CHAT: {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1, "temperature": 0},
    "/v1/completions": {"model": "tiny", "prompt": "Hello", "max_tokens": 1, "temperature": 0},
    "/v1/chat/completions/batch": {
        "model": "tiny",
        "messages": [[{"role": "user", "content": "Hello"}], [{"role": "user", "content": "Good night"}]],
        "max_tokens": 1,
        "temperature": 0,
    },
    "/v1/responses": {"model": "tiny", "input": "Hello", "max_output_tokens": 1, "temperature": 0},
    "/v1/messages": {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 1,
        "temperature": 0,
    },
}
"""By endpoint: the request that a case's fields are put over."""


@dataclass(frozen=True)
class Case:
    """One request. ``body`` is None where only the whole request says what it is."""

    group: str
    name: str
    tries: str
    path: str
    expect: tuple[str, ...]
    body: bytes | None
    raw: bytes
    live: bool

    def __str__(self) -> str:
        return f"{self.group}: {self.name}"


def _case(group: str, row: dict[str, Any]) -> Case:
    path = row.get("path", CHAT)
    body: bytes | None = None
    if "fields" in row:
        body = json.dumps(SOUND[path] | row["fields"]).encode("utf-8", "surrogatepass")
    elif "text" in row:
        body = row["text"].encode(row.get("encoding", "utf-8"), "surrogatepass")
    if "raw" in row:
        raw = row["raw"].encode("latin-1")
    else:
        raw = posted(body if body is not None else json.dumps(SOUND[path]).encode(), row.get("target", path))
    expect = row["expect"]
    return Case(
        group=group,
        name=row["name"],
        tries=row["tries"],
        path=path,
        expect=(expect,) if isinstance(expect, str) else tuple(expect),
        body=body,
        raw=raw,
        live=row.get("live", True),
    )


def posted(body: bytes, target: str = CHAT) -> bytes:
    """The bytes of a POST request with a JSON body."""
    head = (
        f"POST {target} HTTP/1.1\r\nHost: vllm.test:8000\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body


CASES = [
    _case(path.stem, row) for path in sorted(FOLDER.glob("*.json")) for row in json.loads(path.read_text())["cases"]
]
BODIES = [case for case in CASES if case.body is not None]


def read_here(body: bytes, path: str = CHAT) -> ChatRequest | str:
    """What Interlock's judge reads, with every surface under an enforcing policy; else the code of the refusal, or
    ``vllm`` where the model server is to answer."""
    try:
        read = read_request(path, CIMultiDict(), body, 64, SURFACES)
    except Refuse as refusal:
        return refusal.code
    return "vllm" if read is None else read[1]
