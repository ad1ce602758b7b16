"""The alternatives that logprobs show at a token: where a mask follows, they may say how it begins, and so they go with
it. Here each token has the next one for an alternative.

Scripted answers in vLLM's wire form, through a whole Interlock, with the policy of ``tests.support.masking``.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.apis import APIS, documents, heard
from tests.support.chat import Call, Say
from tests.support.masking import KEY, OTHER, finishes, leaks, masked, masking, tokens_fit
from tests.support.serving import answering, streaming
from tests.support.text_stage import TextStage, pieces

pytestmark = [pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]

NAMES = ["chat with tokens", "completions with tokens", "responses with tokens"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stages(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, TextStage]]:
    async with masking(opa_binary, tmp_path_factory.mktemp("masked"), ("tail", "all")) as stages:
        yield stages


def with_next(documents: list[dict[str, Any]]) -> None:
    """Each token gets the next one of its choice for an alternative, in every copy."""
    flowing: dict[int, list[tuple[Any, int]]] = {}
    for document in documents:
        if document.get("type") == "response.output_text.delta":
            flowing.setdefault(0, []).extend(places(document["logprobs"]))
        elif "choices" in document:
            for choice in document["choices"]:
                flowing.setdefault(choice["index"], []).extend(places(choice.get("logprobs")))
        else:
            for listed in lists(document):
                chain(list(places(listed)))
    for found in flowing.values():
        chain(found)


def lists(value: Any) -> Iterator[Any]:
    """Every list of logprobs in a document."""
    if isinstance(value, dict):
        for key, one in value.items():
            if key == "logprobs" and one:
                yield one
            else:
                yield from lists(one)
    elif isinstance(value, list):
        for one in value:
            yield from lists(one)


def places(logprobs: Any) -> list[tuple[Any, int]]:
    """The tokens there, each with the list that has it."""
    listed = logprobs.get("content", logprobs) if isinstance(logprobs, dict) else logprobs
    if not listed:
        return []
    return [(listed, at) for at in range(len(listed["tokens"] if isinstance(listed, dict) else listed))]


def chain(found: list[tuple[Any, int]]) -> None:
    for (listed, at), (following, then) in itertools.pairwise(found):
        if isinstance(listed, dict):
            listed["top_logprobs"][at][following["tokens"][then]] = -3.5
        else:
            entry = {key: following[then][key] for key in ("token", "logprob", "bytes")}
            listed[at]["top_logprobs"] = [*listed[at]["top_logprobs"], entry]


def planted(raw: list[bytes]) -> list[bytes]:
    """The events of a stream, or a body, with alternatives."""
    found = [event.partition(b"data: ") if event.startswith((b"data: {", b"event: ")) else None for event in raw]
    read = [
        json.loads(parts[2] if parts else event) if parts or event[:1] == b"{" else {}
        for parts, event in zip(found, raw, strict=True)
    ]
    with_next(read)
    out: list[bytes] = []
    for parts, event, document in zip(found, raw, read, strict=True):
        said = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        if parts:
            out.append(parts[0] + parts[1] + said + b"\n\n")
        else:
            out.append(said if document else event)
    return out


def alternatives(body: bytes) -> str:
    return "".join(said for path, said in heard(body).items() if "top_logprobs" in path)


WORDS = st.text("ab \n☂é", max_size=40)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hold", ["tail", "all"])
@settings(max_examples=30)
@given(
    before=WORDS,
    between=WORDS.map(lambda text: f" {text} "),
    after=st.one_of(st.just(""), WORDS.map(lambda text: f" and {text}")),
    interval=st.integers(1, 6),
    cuts=st.lists(st.integers(1, 900), min_size=1, max_size=8).filter(lambda cuts: sum(cuts) > 40),
)
async def test_no_alternative_in_a_stream_says_how_a_mask_begins(
    stages: dict[str, TextStage],
    name: str,
    hold: str,
    before: str,
    between: str,
    after: str,
    interval: int,
    cuts: list[int],
) -> None:
    api, stage = APIS[name], stages[hold]
    text = f"{before} {KEY}{between}{OTHER}, {KEY}{after}"
    events = planted(api.events(Say("Hm, well.", text), interval))
    sent = b"".join(events)
    assert "AKI" in alternatives(sent)
    stage.script = streaming(pieces(events, cuts))
    body = await stage.asks(api, stream=True)
    assert leaks(body) == {}
    assert api.said(heard(body), "text", stream=True) == [masked(text)] * api.choices
    assert finishes(body) == finishes(sent)
    tokens_fit(body)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", [KEY, f"It is {KEY}, so.", f"{OTHER} {KEY} and {KEY}", f"Oh: \n{KEY}"])
@pytest.mark.parametrize("calls", [(), (Call("get_weather", '{"city":"Oslo"}'),)])
async def test_no_alternative_in_a_whole_answer_says_how_a_mask_begins(
    stages: dict[str, TextStage], name: str, text: str, calls: tuple[Call, ...]
) -> None:
    api, stage = APIS[name], stages["tail"]
    (before,) = planted([api.body(Say("Hm, well.", text, calls))])
    assert "AKI" in alternatives(before)
    stage.script = answering(before)
    body = await stage.asks(api, stream=False)
    assert leaks(body) == {}
    assert api.said(heard(body), "text", stream=False) == [masked(text)] * api.choices
    tokens_fit(body)
    if not calls:
        assert "<|im_end|>" in str(heard(body)), "other tokens stay"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hold", ["tail", "all"])
async def test_what_nothing_is_masked_in_is_what_the_model_server_sent(
    stages: dict[str, TextStage], name: str, hold: str
) -> None:
    """It leaves an event later, and as it came."""
    api, stage = APIS[name], stages[hold]
    for calls in ((), (Call("get_weather", '{"city":"Oslo"}'),)):
        events = planted(api.events(Say("Hm, well.", "So it is. " + "word " * 40, calls), 2))
        stage.script = streaming(events)
        body = await stage.asks(api, stream=True)
        assert sorted(body.split(b"\n\n")) == sorted(b"".join(events).split(b"\n\n"))
    assert list(documents(body))
