"""The endpoint table against the real vLLM: its routes, and how its web server reads a path."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from serving.endpoints import TABLE, UNKNOWN, classify
from tests.serving.test_endpoints import CHAT, MAY_BE_FOLDED, REACH_THE_HANDLER

pytestmark = pytest.mark.vllm

_DECORATED = re.compile(r"@(?:\w*router|app)\.(get|post|put|patch|delete|websocket)\(\s*\"(/[^\"]*)\"")
_ADDED = re.compile(r"add_api_route\(\s*\"(/[^\"]*)\",[^)]*methods=\[\"(\w+)\"\]")

# Run by the lane's own interpreter: vLLM's web server with a stand-in for the chat handler.
_SERVER = """
import asyncio, json, socket, sys
import uvicorn
from fastapi import FastAPI

app = FastAPI()

@app.post("/v1/chat/completions")
async def chat():
    return {"judged": True}

async def main():
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    reached = {}
    for target in json.load(sys.stdin):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST {target} HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\nContent-Length: 0\\r\\n\\r\\n"
        writer.write(head.encode())
        reached[target] = b'"judged":true' in await reader.read()
        writer.close()
    server.should_exit = True
    await task
    json.dump(reached, sys.stdout)

asyncio.run(main())
"""


def test_every_route_in_vllms_source_is_in_the_table(vllm_env: Path) -> None:
    (entrypoints,) = vllm_env.glob("lib/python3.*/site-packages/vllm/entrypoints")
    routes = set()
    for source in entrypoints.rglob("*.py"):
        if source.parts[-2] in ("cli", "launchers"):  # servers of their own, without a model
            continue
        text = source.read_text(encoding="utf-8")
        routes |= {(method.upper(), path) for method, path in _DECORATED.findall(text)}
        routes |= {(method, path) for path, method in _ADDED.findall(text)}
    assert len(routes) > 60
    for method, path in sorted(routes):
        pattern = re.sub(r"\{\w+\}", "{id}", path)
        assert pattern in TABLE, f"{method} {path}"
        verb = "GET" if method == "WEBSOCKET" else method
        assert verb in TABLE[pattern], f"{method} {path}"
        assert classify(verb, path.replace("{", "").replace("}", "")).name != UNKNOWN


def test_the_spellings_that_reach_the_chat_handler_are_those_that_we_say(vllm_env: Path) -> None:
    targets = (CHAT, *REACH_THE_HANDLER, *MAY_BE_FOLDED)
    done = subprocess.run(
        [vllm_env / "bin" / "python", "-c", _SERVER],
        input=json.dumps(targets),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    reached = json.loads(done.stdout)
    assert {target for target in targets if reached[target]} == {CHAT, *REACH_THE_HANDLER}
