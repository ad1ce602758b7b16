"""Tokens that run ahead of the text that they spell: the stop strings of a request hold a stream's text back by as many
characters as the longest of them has, less one, and not its logprobs. What is masked stands in neither, also where the
text repeats itself, so that the tokens of an event spell by chance what it says.

Scripted answers in vLLM's wire form, through a whole Interlock, with the policy of ``tests.support.masking``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.apis import APIS, Api, heard
from tests.support.chat import Say
from tests.support.masking import KEY, OTHER, finishes, leaks, masked, masking
from tests.support.serving import streaming
from tests.support.text_stage import HOLDS, TextStage

pytestmark = [pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stages(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, TextStage]]:
    async with masking(opa_binary, tmp_path_factory.mktemp("tokens"), HOLDS) as stages:
        yield stages


def lagging(events: list[bytes], lag: int) -> list[bytes]:
    """The events of a stream with ``lag`` characters of each choice's text held back until it ends."""
    out: list[bytes] = []
    came: dict[int, str] = {}
    given: dict[int, int] = {}
    said = [places(event) for event in events]
    last = {number: at for at, found in enumerate(said) for number, _, _ in found}
    for at, event in enumerate(events):
        head, _, data = event.partition(b"data: ")
        if not said[at]:
            out.append(event)
            continue
        document = json.loads(data)
        for number, member, key in places(event, document):
            text = came[number] = came.get(number, "") + member[key]
            upto = len(text) if at == last[number] else max(given.get(number, 0), len(text) - lag)
            member[key] = text[given.get(number, 0) : upto]
            given[number] = upto
        out.append(
            head + b"data: " + json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
        )
    return out


def places(event: bytes, document: dict[str, Any] | None = None) -> list[tuple[int, dict[str, Any], str]]:
    """Of which choices an event says text, and where."""
    if document is None:
        _, _, data = event.partition(b"data: ")
        document = json.loads(data) if data.startswith(b"{") else {}
    if document.get("type") == "response.output_text.delta":
        return [(0, document, "delta")]
    found = []
    for choice in document.get("choices", []):
        member, key = (choice, "text") if "text" in choice else (choice["delta"], "content")
        if choice["logprobs"] is not None:
            member.setdefault(key, "")
            found.append((choice["index"], member, key))
    return found


def asking(name: str, lag: int) -> Api:
    """The API asked for logprobs, and so that its text comes ``lag`` characters late. No tools: where there are some,
    a request of this kind is refused."""
    api = APIS[name]
    stop = {"stop": ["#" * (lag + 1)]}
    if name == "responses with tokens":
        return replace(api, fields=api.fields | stop | {"tools": []})
    logprobs: dict[str, Any] = {"logprobs": 1} if name == "completions" else {"logprobs": True, "top_logprobs": 1}
    return replace(api, fields={"n": 2, "tools": None} | stop | logprobs, shows={"logprobs": True, "top": 1}, choices=2)


@pytest.mark.parametrize("name", ["chat", "completions", "responses with tokens"])
@pytest.mark.parametrize("hold", ["tail", "all"])
@pytest.mark.parametrize("lag", [4, 8, 48])
@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("form", ["{same}{key} and so on, {same}{other}.", "{same}{key}", "a {key} {same}"])
async def test_tokens_ahead_of_their_text_show_nothing_masked(
    stages: dict[str, TextStage], name: str, hold: str, lag: int, interval: int, form: str
) -> None:
    """The text repeats itself every 8 characters."""
    api, stage = asking(name, lag), stages[hold]
    said = form.format(same="one two " * 12, key=KEY, other=OTHER)
    events = lagging(api.events(Say(text=said), interval), lag)
    assert leaks(b"".join(events))
    stage.script = streaming(events)
    body = await stage.asks(api, stream=True)
    assert leaks(body) == {}
    assert api.said(heard(body), "text", stream=True) == [masked(said)] * api.choices
    assert finishes(body) == finishes(b"".join(events))
