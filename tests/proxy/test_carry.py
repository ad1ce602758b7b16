"""What aiohttp's defaults would break, each case sent raw, through a whole Interlock."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.chat import Call, Say, read_stream, stream, whole
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.serving import HEAD, answering, ask, post, streaming
from tests.support.stage import Stage
from tests.support.wire import Message, parse

pytestmark = pytest.mark.asyncio(loop_scope="module")

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class CarryStage(Stage):
    def answers(self, raw: bytes) -> None:
        async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(raw)

        self.script = script

    async def send(self, raw: bytes) -> Message:
        return parse(await send(self.port, raw))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CarryStage]:
    stage = CarryStage()
    state = tmp_path_factory.mktemp("carry") / "state"
    async with (
        scripted(stage.play) as stage.upstream,
        running(stage.upstream.url, state, unjudged="allow") as interlock,
    ):
        stage.port = port_of(interlock)
        yield stage


def get(target: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: vllm.test", *headers, "", ""]).encode("latin-1")


async def test_a_bare_request_arrives_bare(stage: CarryStage) -> None:
    stage.answers(OK)
    await stage.send(get("/version"))
    assert stage.upstream.requests[-1] == b"GET /version HTTP/1.1\r\nHost: vllm.test\r\n\r\n"


async def test_a_bare_answer_leaves_bare(stage: CarryStage) -> None:
    stage.answers(OK)
    answer = await stage.send(get("/health"))
    assert answer.headers == (("content-length", "2"),)


async def test_the_target_arrives_as_it_was_sent(stage: CarryStage) -> None:
    stage.answers(OK)
    await stage.send(get("/a%2Fb//c/../d;x?q=%7e&q=%7E+a"))
    assert stage.upstream.last.start == "GET /a%2Fb//c/../d;x?q=%7e&q=%7E+a HTTP/1.1"


async def test_a_redirect_is_the_clients_to_follow(stage: CarryStage) -> None:
    stage.answers(
        b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://vllm.test/v1/models\r\ncontent-length: 0\r\n\r\n"
    )
    seen = len(stage.upstream.requests)
    answer = await stage.send(get("/v1/models/"))
    assert answer.start == "HTTP/1.1 307 Temporary Redirect"
    assert answer.header("location") == "http://vllm.test/v1/models"
    assert len(stage.upstream.requests) == seen + 1


async def test_one_callers_cookie_is_not_sent_for_the_next(stage: CarryStage) -> None:
    stage.answers(b"HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 0\r\n\r\n")
    answer = await stage.send(get("/version"))
    assert [v for k, v in answer.headers if k == "set-cookie"] == ["a=1", "b=2"]
    await stage.send(get("/version"))
    assert stage.upstream.last.header("cookie") is None


async def test_duplicate_headers_arrive_each_name_in_its_order(stage: CarryStage) -> None:
    stage.answers(OK)
    await stage.send(get("/version", "X-A: 1", "x-a: 2", "X-B: 3", "X-A: 1"))
    arrived = stage.upstream.last.headers
    assert [v for k, v in arrived if k.lower() == "x-a"] == ["1", "2", "1"]
    assert [v for k, v in arrived if k.lower() == "x-b"] == ["3"]


async def test_hop_by_hop_headers_and_our_own_stay_here(stage: CarryStage) -> None:
    stage.answers(OK)
    await stage.send(
        get(
            "/version",
            "Connection: keep-alive, X-Hop",
            "X-Hop: 1",
            "TE: trailers",
            "X-Interlock-Run: r",
            "X-Request-Id: q",
        )
    )
    names = {k.lower() for k, _ in stage.upstream.last.headers}
    assert names == {"host", "x-request-id"}


async def test_the_reason_phrase_is_kept(stage: CarryStage) -> None:
    stage.answers(b"HTTP/1.1 418 I am a teapot, really\r\ncontent-length: 0\r\n\r\n")
    assert (await stage.send(get("/health"))).start == "HTTP/1.1 418 I am a teapot, really"


async def test_a_compressed_body_is_carried_compressed(stage: CarryStage) -> None:
    stage.answers(OK)
    body = gzip.compress(b'{"prompt": "hi"}')
    await stage.send(post(body, "Content-Encoding: gzip", path="/tokenize"))
    assert stage.upstream.last.body == body
    assert stage.upstream.last.header("content-encoding") == "gzip"


async def test_a_compressed_answer_is_carried_compressed(stage: CarryStage) -> None:
    body = gzip.compress(b"hello" * 100)
    stage.answers(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
    answer = await stage.send(get("/version"))
    assert answer.body == body


async def test_a_compressed_chat_request_is_refused(stage: CarryStage) -> None:
    answer = await stage.send(post(gzip.compress(json.dumps(ask()).encode()), "Content-Encoding: gzip"))
    assert answer.start.startswith("HTTP/1.1 400")
    assert json.loads(answer.body)["error"]["code"] == "encoded_body"


async def test_a_body_of_many_megabytes_arrives_whole(stage: CarryStage) -> None:
    stage.script = answering(whole(Say(text="ok")))
    body = json.dumps(ask(user="x" * 3_000_000)).encode()
    answer = await stage.send(post(body))
    assert answer.start == "HTTP/1.1 200 OK"
    assert stage.upstream.last.body == body


async def test_a_body_of_very_many_small_chunks_arrives_whole(stage: CarryStage) -> None:
    """More than are let to wait at once, and each ended apart from the next."""
    sizes = [1, 2, 3, 17, 1, 300] * 8_000
    body = b"".join(b"%x\r\n%s\r\n" % (size, b"%d" % (size % 10) * size) for size in sizes) + b"0\r\n\r\n"
    stage.answers(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body)

    answer = await stage.send(get("/v1/models", "Connection: close"))

    assert answer.body == b"".join(b"%d" % (size % 10) * size for size in sizes)


async def test_long_and_many_headers_are_carried_as_vllm_takes_them(stage: CarryStage) -> None:
    stage.answers(OK)
    await stage.send(get("/version", "X-Long: " + "a" * 60_000, *[f"X-{i}: {i}" for i in range(200)]))
    arrived = stage.upstream.last
    assert len(arrived.header("x-long") or "") == 60_000
    assert len(arrived.headers) == 202


async def test_header_bytes_that_cannot_be_carried_are_refused_not_altered(stage: CarryStage) -> None:
    seen = len(stage.upstream.requests)
    answer = await stage.send(b"GET /version HTTP/1.1\r\nHost: a\r\nX-Name: caf\xe9\r\n\r\n")
    assert answer.start.startswith("HTTP/1.1 400")
    assert json.loads(answer.body)["error"]["code"] == "uncarriable_header"
    assert len(stage.upstream.requests) == seen
    stage.answers(b"HTTP/1.1 200 OK\r\nx-name: caf\xe9\r\ncontent-length: 2\r\n\r\nok")
    answer = await stage.send(get("/version"))
    assert answer.start.startswith("HTTP/1.1 502")


async def test_utf8_header_bytes_are_carried(stage: CarryStage) -> None:
    stage.answers("HTTP/1.1 200 OK\r\nx-name: café\r\ncontent-length: 2\r\n\r\nok".encode())
    raw = await send(stage.port, "GET /version HTTP/1.1\r\nHost: a\r\nX-Name: naïve\r\n\r\n".encode())
    assert "x-name: café".encode() in raw
    assert "X-Name: naïve".encode() in stage.upstream.requests[-1]


async def test_what_is_no_http_is_told_in_the_json_dialect(stage: CarryStage) -> None:
    answer = await stage.send(b"NONSENSE\r\n\r\n")
    assert answer.start.split()[1] == "400"
    assert json.loads(answer.body)["error"]["code"] == "malformed_http"


async def test_expect_is_answered_here_once_and_not_handed_on(stage: CarryStage) -> None:
    stage.script = answering(whole(Say(text="ok")))
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    body = json.dumps(ask()).encode()
    head = post(body, "Expect: 100-continue").removesuffix(body)
    writer.write(head)
    async with asyncio.timeout(5):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert stage.upstream.last.header("expect") is None


async def test_a_chunked_request_body_arrives_whole(stage: CarryStage) -> None:
    stage.script = answering(whole(Say(text="ok")))
    body = json.dumps(ask()).encode()
    head = post(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(body[i : i + 50]), body[i : i + 50]) for i in range(0, len(body), 50))
    answer = await stage.send(head + chunks + b"0\r\n\r\n")
    assert answer.start == "HTTP/1.1 200 OK"
    assert stage.upstream.last.body == body


async def test_head_has_the_length_and_no_body(stage: CarryStage) -> None:
    stage.answers(
        b"HTTP/1.1 405 Method Not Allowed\r\nallow: GET\r\ncontent-length: 31\r\ncontent-type: application/json\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    writer.write(b"HEAD /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(5):
        raw = await reader.read()
    writer.close()
    assert raw.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    assert b"content-length: 31" in raw
    assert raw.endswith(b"\r\n\r\n")


async def test_headers_leave_before_the_first_event_is_there(stage: CarryStage) -> None:
    go_on = asyncio.Event()

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        await writer.drain()
        await go_on.wait()
        writer.write(b"0\r\n\r\n")

    stage.script = script
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    writer.write(post(ask(stream=True)))
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    go_on.set()
    writer.close()


async def test_each_event_leaves_before_the_next_one_is_made(stage: CarryStage) -> None:
    events = stream(Say(text="one two three"))
    taken = asyncio.Event()

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for event in events:
            taken.clear()
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
            await taken.wait()
        writer.write(b"0\r\n\r\n")

    stage.script = script
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    writer.write(post(ask(stream=True)))
    async with asyncio.timeout(10):
        await reader.readuntil(b"\r\n\r\n")
        for event in events:
            assert await reader.readuntil(event)
            taken.set()
    writer.close()


@pytest.mark.parametrize("half", [True, False], ids=["half-close", "close"])
async def test_a_client_that_goes_away_aborts_upstream_at_once(stage: CarryStage, half: bool) -> None:
    gone = asyncio.Event()
    events = stream(Say(text="word " * 2000))

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        try:
            for event in events:
                writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                await writer.drain()
                await asyncio.sleep(0.002)
                if writer.transport.is_closing():
                    raise ConnectionResetError
        except ConnectionError:
            gone.set()
            raise

    stage.script = script
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
    writer.write(post(ask(stream=True)))
    async with asyncio.timeout(5):
        await reader.readuntil(b"word")
        if half:
            writer.write_eof()
            assert not (await reader.read()).endswith(b"0\r\n\r\n")
        else:
            writer.transport.abort()
        await gone.wait()
    writer.close()


async def test_an_upstream_that_breaks_off_leaves_an_answer_without_an_end(stage: CarryStage) -> None:
    events = stream(Say(text="Hello there"))

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for event in events[:4]:
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        await writer.drain()
        writer.transport.abort()

    stage.script = script
    answer = await stage.send(post(ask(stream=True)))
    assert answer.start == "HTTP/1.1 200 OK"
    assert answer.body == b"".join(events[:4])
    assert not answer.whole


async def test_an_upstream_that_breaks_off_inside_a_call_takes_the_call_with_it(stage: CarryStage) -> None:
    events = stream(Say(text="Hi", calls=(Call("get_weather", '{"city": "Oslo"}'),)))

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for event in events[:-4]:
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        await writer.drain()
        writer.transport.abort()

    stage.script = script
    answer = await stage.send(post(ask(stream=True)))
    assert read_stream(answer.body)[0].calls == {}
    assert not answer.whole


async def test_an_upstream_that_is_not_there_is_said_in_the_dialect(stage: CarryStage, tmp_path) -> None:
    async with running("http://127.0.0.1:1", tmp_path / "state") as interlock:
        answer = parse(await send(port_of(interlock), post(ask())))
    assert answer.start.startswith("HTTP/1.1 502")
    assert json.loads(answer.body)["error"]["code"] == "upstream_unreachable"
    assert answer.header("retry-after") is not None


async def test_a_client_that_does_not_read_stops_the_reading_upstream(stage: CarryStage) -> None:
    sent = 0
    full = asyncio.Event()
    event = stream(Say(text="x" * 4000))[1]
    frame = b"%x\r\n%s\r\n" % (len(event), event)

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD)
        for _ in range(1_000_000):
            writer.write(frame)
            try:
                async with asyncio.timeout(0.5):
                    await writer.drain()
            except TimeoutError:
                break
            sent += len(frame)
        full.set()
        writer.transport.abort()

    stage.script = script
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.port, limit=1024)
    writer.write(post(ask(stream=True)))
    async with asyncio.timeout(30):
        await reader.readuntil(b"\r\n\r\n")
        await full.wait()
    writer.transport.abort()
    assert sent < 40_000_000  # what the sockets' own buffers take, of 222 MB


async def test_idle_connections_are_given_up_before_the_server_closes_them(stage: CarryStage) -> None:
    """uvicorn closes after 5 s; a POST into a connection that closes would be lost, as it is never sent twice."""
    stage.script = answering(whole(Say(text="ok")))
    for _ in range(3):
        answer = await stage.send(post(ask()))
        assert answer.start == "HTTP/1.1 200 OK"


async def test_a_stopping_interlock_ends_its_streams_as_vllm_would(tmp_path) -> None:
    started = asyncio.Event()
    events = stream(Say(text="word " * 500))

    async def script(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for event in events:
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
            started.set()
            await asyncio.sleep(0.02)

    async with scripted(script) as upstream, running(upstream.url, tmp_path / "state") as interlock:
        asking = asyncio.ensure_future(send(port_of(interlock), post(ask(stream=True))))
        await started.wait()
        await interlock.stop()
        answer = parse(await asking)
    parts = answer.body.split(b"\n\n")
    assert json.loads(parts[-3][6:])["error"]["code"] == 500
    assert parts[-2] == b"data: [DONE]"
    assert answer.whole


async def test_a_stopping_interlock_lets_short_streams_finish(tmp_path) -> None:
    events = stream(Say(text="a few words"))
    started = asyncio.Event()

    async def script(request: bytes, writer: asyncio.StreamWriter) -> None:
        started.set()
        await streaming(events)(request, writer)

    async with (
        scripted(script) as upstream,
        running(upstream.url, tmp_path / "state", listen={"drain_seconds": 5}) as interlock,
    ):
        asking = asyncio.ensure_future(send(port_of(interlock), post(ask(stream=True))))
        await started.wait()
        await interlock.stop()
        answer = parse(await asking)
    assert answer.body == b"".join(events)
