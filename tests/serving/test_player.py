"""The player sends what was recorded, to whom it was recorded for."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serving.player import Player, take_request
from serving.tiny.recording import Recording
from serving.tiny.shelf import CHAT

HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Fri, 20 Nov 2026 22:38:17 GMT\r\nserver: uvicorn\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
ROLE = b'data: {"id":"chatcmpl-00000000000000aa","choices":[{"index":0,"delta":{"content":""}}]}'
CALL = (
    b'data: {"id":"chatcmpl-00000000000000aa","choices":[{"index":0,"delta":{"tool_calls":'
    b'[{"id":"chatcmpl-tool-00000000000000bb"}]}}]}'
)
USAGE = b'data: {"id":"chatcmpl-00000000000000aa","choices":[],"usage":{"total_tokens":3}}'
DONE = b"data: [DONE]"
MINUTE = 60_000.0

HI = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
USAGE_TOO = {"stream_options": {"include_usage": True}}


def post(body: object, *, path: str = CHAT, extra: str = "") -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: vllm\r\n{extra}Content-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def chunk(event: bytes) -> bytes:
    return b"%x\r\n%s\n\n\r\n" % (len(event) + 2, event)


def streamed(*events: tuple[float, bytes]) -> Recording:
    """A recorded stream; each event comes with the milliseconds of its arrival."""
    reads = [(1.0, HEAD), *((ms, chunk(event)) for ms, event in events)]
    reads.append((reads[-1][0], b"0\r\n\r\n"))
    return Recording(
        post(HI | USAGE_TOO),
        b"".join(data for _, data in reads),
        tuple((ms, len(data)) for ms, data in reads),
    )


async def player_of(folder: Path, recording: Recording, **options: Any) -> tuple[Player, str]:
    (folder / "hi.http").write_bytes(recording.dumps())
    ids = (f"{number:016x}" for number in itertools.count(1))
    player = Player(folder, new_id=lambda: next(ids), **options)
    return player, await player.start()


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def ask(url: str, *requests: bytes) -> bytes:
    """Send requests, the last one with ``Connection: close``, and read to the end."""
    reader, writer = await connect(url)
    writer.write(b"".join(requests))
    data = await reader.read()
    writer.close()
    return data


@pytest.fixture
async def player(tmp_path: Path) -> AsyncIterator[tuple[Player, str]]:
    recording = streamed((2.0, ROLE), (3.0, CALL), (4.0, USAGE), (4.0, DONE))
    playing, url = await player_of(tmp_path, recording, speed=0)
    yield playing, url
    await playing.stop()


async def test_the_recorded_bytes_are_sent_but_for_the_ids(player: tuple[Player, str]) -> None:
    answer = await ask(player[1], post(HI | USAGE_TOO, extra="Connection: close\r\n"))
    events = b"".join(chunk(event) for event in (ROLE, CALL, USAGE, DONE)) + b"0\r\n\r\n"
    renewed = events.replace(b"-00000000000000aa", b"-0000000000000001")
    assert answer == HEAD + renewed.replace(b"-00000000000000bb", b"-0000000000000002")
    assert player[0].played == ["hi"]


async def test_two_answers_have_different_ids(player: tuple[Player, str]) -> None:
    last = post(HI, extra="Connection: close\r\n")
    answer = await ask(player[1], post(HI), last)
    first, second = answer.split(HEAD)[1:]
    assert b"chatcmpl-0000000000000001" in first
    assert b"chatcmpl-0000000000000001" not in second


async def test_usage_is_sent_only_to_those_who_ask_for_it(player: tuple[Player, str]) -> None:
    answer = await ask(player[1], post(HI, extra="Connection: close\r\n"))
    assert b"usage" not in answer
    assert answer.endswith(chunk(DONE) + b"0\r\n\r\n")


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Refused."}],
    ],
)
async def test_what_the_model_or_the_system_said_does_not_matter(
    player: tuple[Player, str], messages: list[dict[str, Any]]
) -> None:
    await ask(player[1], post(HI | {"messages": messages}, extra="Connection: close\r\n"))
    assert player[0].played == ["hi"]


@pytest.mark.parametrize(
    "changed",
    [
        {"stream": False},
        {"logprobs": True},
        {"n": 2},
        {"stream_options": {"continuous_usage_stats": True}},
        {"messages": [{"role": "user", "content": "Ho"}]},
        {"messages": [*HI["messages"], {"role": "tool", "content": "x"}]},  # type: ignore[misc]
    ],
)
async def test_what_was_not_recorded_is_a_404_as_vllm_words_it(
    player: tuple[Player, str], changed: dict[str, Any]
) -> None:
    answer = await ask(player[1], post(HI | changed, extra="Connection: close\r\n"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 Not Found\r\n")
    error = json.loads(body)["error"]
    assert (error["type"], error["code"], error["param"]) == ("NotFoundError", 404, None)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /v1/chat/completions HTTP/1.1\r\nConnection: close\r\n\r\n", 405),
        (b"GET /nothing HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (post([], extra="Connection: close\r\n"), 400),
        (post({"messages": 3}, extra="Connection: close\r\n"), 400),
        (b"what is this\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
    ],
)
async def test_wrong_requests_get_an_error(player: tuple[Player, str], request_bytes: bytes, status: int) -> None:
    answer = await ask(player[1], request_bytes)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


async def test_events_come_at_their_time_and_a_client_that_leaves_ends_them(tmp_path: Path) -> None:
    recording = streamed((2.0, ROLE), (MINUTE, CALL), (MINUTE, DONE))
    playing, url = await player_of(tmp_path, recording)
    reader, writer = await connect(url)
    writer.write(post(HI))
    await reader.readuntil(b"delta")  # the first event is there, the second is a minute off
    writer.write_eof()
    rest = await reader.read()
    assert b"tool_calls" not in rest
    assert playing.aborted == 1
    writer.close()
    await playing.stop()


async def test_a_faster_player_does_not_wait_out_the_recorded_pauses(tmp_path: Path) -> None:
    recording = streamed((2.0, ROLE), (MINUTE, CALL), (MINUTE, DONE))
    playing, url = await player_of(tmp_path, recording, speed=1e6)
    answer = await ask(url, post(HI, extra="Connection: close\r\n"))
    assert answer.endswith(b"0\r\n\r\n")
    assert playing.aborted == 0
    await playing.stop()


async def test_stopping_cuts_what_is_still_played(tmp_path: Path) -> None:
    recording = streamed((2.0, ROLE), (MINUTE, CALL), (MINUTE, DONE))
    playing, url = await player_of(tmp_path, recording)
    reader, writer = await connect(url)
    writer.write(post(HI))
    await reader.readuntil(b"delta")
    await playing.stop()
    assert b"tool_calls" not in await reader.read()
    writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        post({"a": 1}, path="/p?q=1"),
        b'POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n4\r\n: 1}\r\n0\r\n\r\n',
    ],
)
def test_a_request_is_taken_when_its_last_byte_is_there(sent: bytes) -> None:
    assert all(take_request(sent[:size]) is None for size in range(len(sent)))
    assert take_request(sent + b"GET") == ("POST", "/p", False, b'{"a": 1}', b"GET")
