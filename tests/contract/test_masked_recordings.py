"""Streams that a real vLLM sent, with a key in them that it never said: what the client reads is the recorded text with
the mask in it, and nothing else of the stream is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.test_masked_answers import HOLDS, KEY, POLICY, finishes, leaks, masked, staged
from tests.contract.test_text_policies import RECORDED, TextStage, pieces
from tests.policies.support import built
from tests.support.apis import APIS, heard
from tests.support.raw import send
from tests.support.serving import post, streaming
from tests.support.wire import parse

pytestmark = [pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stages(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, TextStage]]:
    folder = tmp_path_factory.mktemp("recorded")
    sources = {
        f"team/hold_{name}/policy.rego": POLICY.format(name=f"hold_{name}", hold=HOLDS[name])
        for name in ("tail", "all")
    }
    built(opa_binary, folder / "sources", sources, with_library=True).write(folder / "bundle")
    async with (
        staged(folder / "bundle", folder / "tail", "tail") as tail,
        staged(folder / "bundle", folder / "all", "all") as every,
    ):
        yield {"tail": tail, "all": every}


@pytest.mark.parametrize("hold", ["tail", "all"])
@pytest.mark.parametrize(("name", "surface"), RECORDED)
@settings(max_examples=8)
@given(data=st.data())
async def test_a_recorded_stream_says_the_masked_text(
    stages: dict[str, TextStage], name: str, surface: str, hold: str, data: st.DataObject
) -> None:
    stream, stage = RECORDED[name, surface], stages[hold]
    words = f" {KEY} "
    at = data.draw(st.lists(st.integers(1, len(words) - 1), unique=True).map(sorted))
    parts = [words[begin:end] for begin, end in zip([0, *at], [*at, len(words)], strict=True)]
    events = stream.with_words(surface, data.draw(st.sampled_from(stream.places(surface))), parts)
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
