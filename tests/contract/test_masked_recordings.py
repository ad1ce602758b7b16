"""Streams that a real vLLM sent, with a key in them that it never said: what the client reads is the recorded text with
the mask in it, and nothing else of the stream is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.apis import APIS, heard
from tests.support.masking import KEY, finishes, leaks, masked, masking
from tests.support.planted import RECORDED, planted
from tests.support.raw import send
from tests.support.serving import post, streaming
from tests.support.text_stage import TextStage, pieces
from tests.support.wire import parse

pytestmark = [pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stages(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, TextStage]]:
    async with masking(opa_binary, tmp_path_factory.mktemp("recorded"), ("tail", "all")) as stages:
        yield stages


@pytest.mark.parametrize("hold", ["tail", "all"])
@pytest.mark.parametrize(("name", "surface"), RECORDED)
@settings(max_examples=8)
@given(data=st.data())
async def test_a_recorded_stream_says_the_masked_text(
    stages: dict[str, TextStage], name: str, surface: str, hold: str, data: st.DataObject
) -> None:
    stream, stage = RECORDED[name, surface], stages[hold]
    events = stream.with_words(surface, *data.draw(planted(stream, surface, f" {KEY} ")))
    sent = b"".join(events)
    assert leaks(sent)
    stage.script = streaming(pieces(events, data.draw(st.lists(st.integers(30, 900), min_size=1, max_size=8))))
    request = stream.capture.request
    answer = parse(await send(stage.port, post(request.body, path=request.start.split()[1])))
    assert answer.start == "HTTP/1.1 200 OK", answer.body
    assert leaks(answer.body) == {}
    if stream.ended and b"<tool_call>" not in sent:  # a call in plain text, with a key in it, is refused
        told, before = heard(answer.body), heard(sent)
        for one, (field, _) in APIS[stream.api].says.items():
            path = field.replace("#", "0")
            wanted = before.get(path, "")
            assert told.get(path, "") == (masked(wanted) if one == surface else wanted)
        assert finishes(answer.body) == finishes(sent)
