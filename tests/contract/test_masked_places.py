"""Where in an answer something is masked: at its first and its last character, all of it, in one choice of several,
in the middle of a text that waits for its end; and what stays as it was: the other choices, `usage`, why it ended.

Scripted answers in vLLM's wire form, through a whole Interlock, with the policy of ``test_masked_answers``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.apis import APIS, STREAMED, Api, documents, heard
from tests.support.chat import Call, Say
from tests.support.masking import KEY, MASK, OTHER, finishes, leaks, masked, masking, tokens_fit, unmasked
from tests.support.serving import answering, streaming
from tests.support.text_stage import TextStage

pytestmark = [pytest.mark.opa, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stages(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, TextStage]]:
    async with masking(opa_binary, tmp_path_factory.mktemp("masked"), ("tail", "all")) as stages:
        yield stages


SURFACES = [(name, surface) for name, api in APIS.items() for surface in api.says]
TEXTS = [
    KEY,
    f"{KEY} is it.",
    f"It is {KEY}",
    f" {KEY} ",
    f"\n{KEY}\n",
    f"{KEY} {OTHER}",
    f"☂{'é' * 30} {KEY} {'é' * 30}☂",
    f"{'word ' * 40}{KEY}{' word' * 40} {OTHER}.",
]
"""Behind a letter a key is none; ``☂`` is no letter."""


def usages(body: bytes) -> list[Any]:
    """All that an answer says of what it used."""
    found: list[Any] = []
    for document in documents(body):
        for holder in (document, document.get("message") or {}, document.get("response") or {}):
            found += [holder["usage"]] if holder.get("usage") else []
    return found


def words(api: Api, before: bytes, after: bytes, *, stream: bool) -> None:
    """What the model thought and said is what the client reads, masked, and so is every copy of it."""
    was, told = heard(before), heard(after)
    for surface in api.says:
        assert api.said(told, surface, stream=stream) == [masked(one) for one in api.said(was, surface, stream=stream)]
    shows = ("logprobs", "token_ids")
    copies = {
        path for path, said in was.items() if (KEY in said or OTHER in said) and not any(s in path for s in shows)
    }
    assert copies
    assert {path: masked(was[path]) for path in copies} == {path: told.get(path, "") for path in copies}


async def given(stage: TextStage, api: Api, says: list[Say], *, stream: bool, interval: int = 2) -> tuple[bytes, bytes]:
    """What the model server said, and what the client got."""
    if stream:
        assert api.stream is not None
        before = b"".join(events := api.stream(*says, **api.shows, interval=interval))
        stage.script = streaming(events)
    else:
        before = api.whole(*says, **api.shows)
        stage.script = answering(before)
    body = await stage.asks(api, stream=stream)
    assert leaks(body) == {}
    assert finishes(body) == finishes(before)
    assert usages(body) == usages(before)
    tokens_fit(body)
    return before, body


def say_of(surface: str, text: str, finish: str | None = None) -> Say:
    return Say(text, "So be it.", finish=finish) if surface == "reasoning" else Say("", text, finish=finish)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("name", "surface"), SURFACES)
@pytest.mark.parametrize("hold", ["tail", "all"])
async def test_wherever_it_stands(stages: dict[str, TextStage], name: str, surface: str, hold: str, text: str) -> None:
    api, stage = APIS[name], stages[hold]
    says = [say_of(surface, text)] * api.choices
    for interval in (1, 3, 1000) if name in STREAMED else ():
        before, body = await given(stage, api, says, stream=True, interval=interval)
        assert usages(before) or name.startswith(("completions", "responses"))
        words(api, before, body, stream=True)
    before, body = await given(stage, api, says, stream=False)
    assert unmasked(before) == unmasked(body)


SEVERAL = [name for name, api in APIS.items() if api.choices > 1]


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("hold", ["tail", "all"])
@pytest.mark.parametrize("other", ["", "Nothing of the kind is in this one, " * 8])
async def test_the_other_choice_is_as_it_was(
    stages: dict[str, TextStage], name: str, which: int, hold: str, other: str
) -> None:
    api, stage = APIS[name], stages[hold]
    says = [Say(text=other), Say(text=other)]
    says[which] = Say(text=f"The key is {KEY}, or so.")
    for stream in (True, False) if name in STREAMED else (False,):
        before, body = await given(stage, api, says, stream=stream)
        words(api, before, body, stream=stream)
        untouched = [parts_of(document, 1 - which) for document in documents(before)]
        assert [one for one in untouched if one] == [
            one for document in documents(body) if (one := parts_of(document, 1 - which))
        ]


def parts_of(document: dict[str, Any], number: int) -> list[Any]:
    """All that a document says of a choice, tokens too."""
    return [choice for choice in document.get("choices", ()) if choice["index"] == number]


@pytest.mark.parametrize("name", [name for name in APIS if not name.startswith("responses")])
@pytest.mark.parametrize("hold", ["tail", "all"])
async def test_an_answer_that_was_cut_off_by_length_stays_so(
    stages: dict[str, TextStage], name: str, hold: str
) -> None:
    api, stage = APIS[name], stages[hold]
    finish = "length" if not name.startswith("messages") else None
    for stream in (True, False) if name in STREAMED else (False,):
        for text in (f"It is {KEY}", f"It is {KEY} and more", KEY):
            before, body = await given(stage, api, [Say(text=text, finish=finish)] * api.choices, stream=stream)
            words(api, before, body, stream=stream)


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("length", [4, 12, len(KEY) - 1])
async def test_a_part_of_a_key_at_the_very_end_is_no_key(stages: dict[str, TextStage], name: str, length: int) -> None:
    """It stays as it came, behind a mask too: nothing is guessed."""
    api = APIS[name]
    text = f"{KEY} and {KEY[:length]}"
    for hold in ("tail", "all"):
        stages[hold].script = streaming(api.events(Say(text=text), 2))
        body = await stages[hold].asks(api, stream=True)
        assert api.said(heard(body), "text", stream=True) == [f"{MASK} and {KEY[:length]}"] * api.choices


CALLING = [name for name in APIS if name.startswith(("chat", "messages", "responses"))]


@pytest.mark.parametrize("name", CALLING)
@pytest.mark.parametrize("stream", [True, False])
async def test_text_reasoning_and_call_of_one_answer(stages: dict[str, TextStage], name: str, stream: bool) -> None:
    """Each is masked by itself, in an answer that is nothing else."""
    api = APIS[name]
    say = Say(KEY, OTHER, (Call("read_file", json.dumps({"path": KEY})), Call("get_weather", '{"city":"Oslo"}')))
    for hold in ("tail", "all"):
        before, body = await given(stages[hold], api, [say] * api.choices, stream=stream)
        told = heard(body)
        assert api.said(told, "reasoning", stream=stream) == [MASK] * api.choices
        assert api.said(told, "text", stream=stream) == [MASK] * api.choices
        assert "Oslo" in str(told)
        if not stream:
            assert unmasked(before) == unmasked(body)
