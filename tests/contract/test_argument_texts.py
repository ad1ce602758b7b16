"""A call's arguments are denied as malformed, or every harness reads in them what the judge read.

Harnesses read arguments with Python's ``json`` (``strict`` or not, the whole text or from its first brace on), with
JavaScript's ``JSON.parse``, and with repairing readers that try one of these first and guess only if it fails. So it
is enough that each of these takes what we take, with the same value, also where an object is merged key by key.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from serving.wire.strict import NotStrict, read_arguments
from tests.support.chat import Call, Say, read_stream, read_whole, stream, whole
from tests.support.interlock import port_of, running
from tests.support.raw import Script, scripted, send
from tests.support.serving import answering, ask, post, streaming
from tests.support.wire import parse

ROWS = json.loads(Path(__file__).with_name("arguments.json").read_text())["cases"]
CASES = [pytest.param(row["text"], row["expect"], id=row["name"]) for row in ROWS]
TAKEN = [row["text"] for row in ROWS if row["expect"] == "read"]

READERS: dict[str, Callable[[str], Any]] = {
    "json.loads": json.loads,
    "json.loads of bytes": lambda text: json.loads(text.encode()),
    "not strict": lambda text: json.loads(text, strict=False),
    "from the first brace": lambda text: json.JSONDecoder(strict=False).raw_decode(text, text.index("{"))[0],
    "between the braces": lambda text: json.loads(text[text.index("{") : text.rindex("}") + 1]),
    "stripped": lambda text: json.loads(text.strip().strip("`").removeprefix("json")),
    "of pairs, the first wins": lambda text: json.loads(text, object_pairs_hook=lambda pairs: dict(reversed(pairs))),
}


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types: ``True`` is not 1, nor 1 the same as 1.0."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@pytest.mark.parametrize(("text", "expect"), CASES)
def test_a_text_is_denied_for_its_reason_or_read_alike(text: str, expect: str) -> None:
    try:
        value = read_arguments(text)
    except NotStrict as refusal:
        assert refusal.kind == expect
        return
    assert expect == "read"
    for name, reader in READERS.items():
        assert same(reader(text), value), name


PARSE = """
const texts = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const merged = value => Array.isArray(value) ? value.map(merged)
  : value && typeof value === 'object'
    ? Object.keys(value).reduce((into, key) => { into[key] = merged(value[key]); return into; }, {}) : value;
console.log(JSON.stringify(texts.map(text => [JSON.parse(text), merged(JSON.parse(text))])));
"""


def as_doubles(value: Any) -> Any:
    """``value`` as a reader has it whose numbers are all doubles."""
    if isinstance(value, dict):
        return {key: as_doubles(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_doubles(item) for item in value]
    return float(value) + 0.0 if type(value) in (int, float) else value


def test_javascript_reads_alike_what_is_taken() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine to read with JavaScript's own JSON.parse")
    said = subprocess.run([node, "-e", PARSE], input=json.dumps(TAKEN), capture_output=True, text=True, check=True)
    for text, readings in zip(TAKEN, json.loads(said.stdout), strict=True):
        for reading in readings:
            assert as_doubles(reading) == as_doubles(read_arguments(text)), text


@given(
    st.sampled_from(TAKEN),
    st.floats(0, 1),
    st.sampled_from(
        ['"', "\\", "{", "}", ",", ":", "\n", "\0", "'", "/*", "//", "NaN", "1", "-", "\ufeff", "\ud800", " ", "[", "]"]
    ),
    st.integers(0, 2),
)
def test_a_changed_text_too_is_denied_or_read_alike(text: str, where: float, piece: str, length: int) -> None:
    at = int(where * len(text))
    changed = text[:at] + piece + text[at + length :]
    try:
        value = read_arguments(changed)
    except NotStrict:
        return
    for name, reader in READERS.items():
        assert same(reader(changed), value), name


# --- through Interlock -------------------------------------------------------------------------------------


@dataclass
class Stage:
    port: int
    script: Script | None = None


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    held = Stage(0)

    async def play(request: bytes, writer: Any) -> None:
        assert held.script is not None
        await held.script(request, writer)

    async with (
        scripted(play) as upstream,
        running(upstream.url, tmp_path_factory.mktemp("arguments") / "state") as interlock,
    ):
        held.port = port_of(interlock)
        yield held


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(("text", "expect"), [case for case in CASES if "\\ud800" not in repr(case.values[0])])
async def test_a_harness_is_never_handed_what_the_judge_cannot_read(
    text: str, expect: str, streamed: bool, stage: Stage
) -> None:
    say = Say("I think.", "Well then.", (Call("read_file", text), Call("get_weather", '{"city": "Oslo"}')))
    stage.script = streaming(stream(say)) if streamed else answering(whole(say))
    answer = parse(await send(stage.port, post(ask(stream=streamed))))
    read = (read_stream(answer.body) if streamed else read_whole(answer.body))[0]
    arrived = [call["arguments"] for _, call in sorted(read.calls.items())]
    if expect == "read":
        assert arrived == [text, '{"city": "Oslo"}']
    else:
        assert arrived == ['{"city": "Oslo"}']
        assert "interlock/malformed_arguments" in read.text
