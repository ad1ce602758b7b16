"""A real vLLM, launched: it parses calls and reasoning, and nobody without the key gets a token out of it."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from serving.launch.families import Parsers
from serving.launch.vllm import VllmServer
from serving.settings import ModelSettings, Settings
from tests.support.servers import TINY_MODEL

pytestmark = pytest.mark.vllm

ARGUMENTS = (
    *("--served-model-name", "tiny", "--max-model-len", "2048", "--max-num-seqs", "4"),
    *("--enforce-eager", "--dtype", "float32", "--kv-cache-memory-bytes", "64M"),
)
QUESTION = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
PATHS = ("/v1/chat/completions", "/invocations", "/generative_scoring", "/scale_elastic_ep", "/tokenize", "/v1/made-up")


async def test_a_launched_vllm_answers_the_key_on_every_path_and_nobody_else(vllm_env: Path, tmp_path: Path) -> None:
    model = ModelSettings(name=str(TINY_MODEL), vllm=vllm_env / "bin" / "vllm", args=list(ARGUMENTS))
    server = VllmServer(Settings(model=model, state_dir=tmp_path))
    assert server.parsers == Parsers("hermes", "qwen3")
    try:
        upstream = await server.start()
        assert upstream.api_key is not None
        key = {"Authorization": f"Bearer {upstream.api_key.get_secret_value()}"}
        async with aiohttp.ClientSession(upstream.url) as session:
            for path in PATHS:
                for headers in ({}, {"Authorization": "Bearer wrong"}):
                    async with session.post(path, json=QUESTION, headers=headers) as answer:
                        assert answer.status == 401, path
            for path in ("/v1/chat/completions", "/invocations"):
                async with session.post(path, json=QUESTION, headers=key) as answer:
                    assert answer.status == 200, path
                    details = (await answer.json())["usage"]["prompt_tokens_details"]
                    assert "cached_tokens" in details
    finally:
        await server.stop()
    log = (tmp_path / "logs" / "vllm.log").read_text(encoding="utf-8")
    assert upstream.api_key.get_secret_value() not in log
    assert "Hello" not in log
