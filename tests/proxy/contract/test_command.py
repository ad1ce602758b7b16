"""The command, between a server that plays recorded answers and proxies that each do one thing wrong."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest

from proxy.cli import main
from tests.proxy.contract.fakes import (
    STREAM,
    each_value,
    pair,
    passes_on,
    plays,
    recorded,
    split,
    unchanged,
    with_chunks,
)
from tests.proxy.contract.test_compare import answer, merged, reencoded, replaced, without_reasoning
from tests.support.processes import free_port
from tests.support.raw import Script, scripted

GREETING = ("--only", "chat/a greeting*")


async def contract(server: Script, proxy: Script, *arguments: str) -> int:
    async with pair(server, proxy) as (direct, through):
        command = ["contract", "--direct", direct, "--proxy", f"{through}/v1", *arguments]
        return await asyncio.to_thread(main, command)


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


async def test_a_proxy_that_changes_nothing_has_no_difference(capsys: pytest.CaptureFixture[str]) -> None:
    assert await contract(plays(), plays(), "--only", "chat/a", "--json") == 0
    found = report(capsys)
    assert found["summary"]["cases"] > 50
    assert found["summary"]["same"] == found["summary"]["cases"]
    assert found["summary"]["classes"] == {}
    assert found["model"] == "tiny"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (without_reasoning, "field missing"),
        (lambda raw: each_value(raw, lambda value: value.update(x=1)), "field added"),
        (lambda raw: merged(raw) if b"event-stream" in raw else raw, "events"),
        (replaced(b"\r\nserver:", b"\r\nx-proxy: 1\r\nserver:"), "header added"),
        (replaced(b"200 OK", b"202 Accepted"), "status"),
        (lambda raw: b"", "no answer"),
        (lambda raw: raw[:-4], "cut short"),
    ],
)
async def test_each_class_of_difference_is_reported(change: Any, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await contract(plays(), plays(change), *GREETING, "--json") == 1
    found = report(capsys)
    assert list(found["summary"]["classes"]) == [kind]
    assert [one["verdict"] for one in found["cases"]].count("differs") == found["summary"]["classes"][kind]


async def test_a_stream_that_is_held_until_its_end_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    server = plays(pause=0.02)
    assert await contract(server, plays(pause=0.06, held=True), *GREETING, "--json", "--tries", "1") == 1
    assert report(capsys)["summary"]["classes"] == {"buffered": 1}


async def test_a_stream_that_is_handed_on_later_is_not_held(capsys: pytest.CaptureFixture[str]) -> None:
    later = plays(pause=0.005)

    async def slow(request: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        await later(request, writer)

    assert await contract(plays(pause=0.005), slow, *GREETING, "--json") == 0
    assert report(capsys)["first_event_ms"]["proxy"] > 250


async def test_what_the_server_itself_does_not_repeat_is_not_the_proxys(capsys: pytest.CaptureFixture[str]) -> None:
    """Every answer of the server says something else, as with sampling that has no seed; the proxy adds nothing."""
    number = 0

    def varied(raw: bytes) -> bytes:
        nonlocal number
        number += 1
        return each_value(raw, lambda value: value.update(system_fingerprint=f"fp-{number}"))

    assert await contract(plays(varied), plays(varied), *GREETING, "--json") == 0
    found = report(capsys)
    assert found["summary"]["unsteady"] == 2
    assert found["cases"][0]["detail"] == "value changed system_fingerprint"
    assert found["cases"][0]["pairs"] == 4


async def test_what_the_server_now_and_then_does_is_asked_for_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Two tokens in one event in the first answer, as a busy vLLM sends them."""
    asked = 0

    def first(raw: bytes) -> bytes:
        nonlocal asked
        asked += 1
        return merged(raw) if asked == 1 else raw

    assert await contract(plays(first), plays(), "--only", "chat/a greeting, streamed", "--json") == 0
    assert report(capsys)["cases"][0]["pairs"] == 2


async def test_the_answers_id_shows_whether_the_request_id_was_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    def obeys(request: bytes) -> bytes:
        sent = next((line for line in request.split(b"\r\n") if line.startswith(b"X-Request-Id: ")), b"")
        return b"chatcmpl-" + sent[14:]

    async def server(request: bytes, writer: asyncio.StreamWriter) -> None:
        raw = recorded(request)
        if request.startswith(b"POST"):
            raw = each_value(raw, lambda value: value.update(id=obeys(request).decode()))
        writer.write(raw)
        writer.close()

    assert await contract(server, plays(), *GREETING, "--json") == 1
    assert list(report(capsys)["summary"]["classes"]) == ["request id"]


async def test_what_the_server_does_not_offer_is_no_difference(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        await contract(
            plays(),
            plays(lambda raw: b""),
            "--only",
            "completions/a greeting",
            "--only",
            "completions/two sampled*",
            "--json",
        )
        == 0
    )
    found = report(capsys)
    assert found["summary"]["not offered"] == found["summary"]["cases"] > 0
    assert found["cases"][0]["detail"].startswith("completions: the server answers 404")


async def test_the_table_names_the_case_the_class_the_place_and_the_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    def change(raw: bytes) -> bytes:
        raw = each_value(raw, lambda value: value.update(model="hu\x1b[31m"))
        return raw.replace(b"server: uvicorn", b"server: \x1b[31mred")

    assert await contract(plays(), plays(change), *GREETING) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "chat/a greeting, streamed" in said
    assert "value changed" in said
    assert "first bytes" in said
    assert "2 cases: 0 the same, 2 differ" in said
    assert "header changed server uvicorn [31mred" in said
    assert "\x1b" not in said


async def test_it_says_why_it_cannot_run(capsys: pytest.CaptureFixture[str]) -> None:
    def said() -> str:
        return capsys.readouterr().err

    async def locked(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    assert await asyncio.to_thread(main, ["contract", "--proxy", "http://127.0.0.1:1"]) == 2
    assert "--direct and --proxy are needed" in said()
    assert await contract(plays(), locked, *GREETING) == 2
    assert "wants a key (401 Unauthorized): give --proxy-key" in said()
    assert await contract(plays(), plays(), "--only", "no such case") == 2
    assert "no case matches" in said()
    async with scripted(plays()) as server:
        command = ["contract", "--direct", server.url, "--proxy", "http://127.0.0.1:1"]
        assert await asyncio.to_thread(main, command) == 2
    assert "Connection refused" in said()
    assert await contract(plays(lambda raw: b""), plays(), *GREETING) == 2
    assert "does not answer `chat/a greeting`" in said()


def with_request_body(request: bytes, body: bytes) -> bytes:
    head, old = split(request)
    return head.replace(b"Content-Length: %d" % len(old), b"Content-Length: %d" % len(body)) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (unchanged, None),
        (
            lambda request: request.replace(b"\r\nX-Request-Id:", b"\r\nX-More: 1\r\nX-Request-Id:"),
            "added header x-more",
        ),
        (lambda request: request.replace(b"interlock-contract\r", b"other/1\r"), "changed header user-agent"),
        (lambda request: request.replace(b"/completions ", b"/completions?x=1 "), "request line"),
        (lambda request: with_request_body(request, reencoded(split(request)[1])), "re-encoded"),
        (
            lambda request: with_request_body(request, split(request)[1].replace(b'"seed":7,', b"")),
            "field missing seed",
        ),
    ],
)
async def test_with_a_tap_the_requests_are_compared_too(
    change: Any, where: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()

    def on_posts(request: bytes) -> bytes:
        return bytes(change(request)) if request.startswith(b"POST") else request

    status = await contract(plays(), passes_on(port, on_posts), *GREETING, "--json", "--tap", str(port))
    found = report(capsys)
    changes = [
        [one["where"] for one in case["differences"] if one["class"] == "request changed"] for case in found["cases"]
    ]
    assert changes == ([[], []] if where is None else [[where], [where]])
    assert status == (0 if where is None else 1)


async def test_a_credential_is_the_proxys_business_and_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    proxy = passes_on(port, lambda request: request.replace(b"Bearer ours", b"Bearer theirs"))
    assert await contract(plays(), proxy, *GREETING, "--json", "--tap", str(port), "--key", "ours") == 0
    said = capsys.readouterr().out
    assert "ours" not in said
    assert "theirs" not in said


async def test_an_answer_of_the_proxys_own_is_seen_by_the_tap(capsys: pytest.CaptureFixture[str]) -> None:
    assert await contract(plays(), plays(), *GREETING, "--json", "--tap", str(free_port())) == 1
    found = report(capsys)
    assert found["cases"][0]["differences"][0]["proxy"] == "never reached the server"


async def test_connections_that_the_proxy_keeps_open_are_ended_with_the_command(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def keeps(request: bytes, writer: asyncio.StreamWriter) -> None:
        kept.append(await asyncio.open_connection("127.0.0.1", port))
        await plays()(request, writer)

    assert await contract(plays(), keeps, *GREETING, "--json", "--tap", str(port)) == 1
    assert kept
    for reader, writer in kept:
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
    assert not caplog.records


async def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    async with scripted(plays()) as taken:
        assert await contract(plays(), plays(), *GREETING, "--tap", str(taken.port)) == 2
    assert "--tap" in capsys.readouterr().err


async def test_each_side_gets_its_own_key_and_host(capsys: pytest.CaptureFixture[str]) -> None:
    async with scripted(plays()) as server, scripted(plays()) as proxy:
        command = ["contract", "--direct", server.url, "--proxy", proxy.url, *GREETING]
        assert await asyncio.to_thread(main, [*command, "--key", "one", "--proxy-key", "two"]) == 0
        for side, key in ((server, b"one"), (proxy, b"two")):
            for request in side.requests:
                assert f"\r\nHost: 127.0.0.1:{side.port}\r\n".encode() in request
                assert b"\r\nAuthorization: Bearer %s\r\n" % key in request
    assert "one" not in capsys.readouterr().out


def test_the_list_has_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contract", "--list", "--only", "batch/"]) == 0
    assert "batch/two conversations" in capsys.readouterr().out.splitlines()


def test_the_fakes_are_what_they_say() -> None:
    assert answer(with_chunks(STREAM, [b"data: x\n\n"])).body == b"data: x\n\n"
    assert answer(unchanged(STREAM)) == answer(STREAM)
    assert json.loads(reencoded(b'{"a":1}')) == {"a": 1}
