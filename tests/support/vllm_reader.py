"""What vLLM reads in a request body: vLLM's own routes and models, without an engine behind them.

Run by the interpreter of the vLLM lane, never imported by the tests. It serves vLLM's real FastAPI routes in
process, with handlers in place of the engine's that keep the parsed request, and renders what the model would
see: the conversation in both of vLLM's content formats, the tools, the template's arguments, and the prompt by
the tiny model's own template and tokenizer.

Every other API of vLLM's that is here becomes a conversation there, so all are shown as one.

One JSON object per line in, one out. In: ``path``, ``headers`` (pairs), ``body`` (base64). Out: ``verdict`` is
``read`` or ``refused``; ``status`` where vLLM answered by itself; and of what it read ``api``, ``fields`` (the
request model as vLLM holds it) and ``seen`` (all that reaches the prompt, or could with some template).
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
_answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # whatever prints to stdout does not answer

from fastapi import FastAPI  # noqa: E402
from fastapi.exceptions import RequestValidationError  # noqa: E402
from fastapi.responses import JSONResponse  # noqa: E402
from vllm.config import ModelConfig, VllmConfig  # noqa: E402
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest  # noqa: E402
from vllm.entrypoints.anthropic.serving import AnthropicServingMessages  # noqa: E402
from vllm.entrypoints.generate.api_router import register_generate_api_routers  # noqa: E402
from vllm.entrypoints.openai.chat_completion.protocol import (  # noqa: E402
    BatchChatCompletionRequest,
    ChatCompletionRequest,
)
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest  # noqa: E402
from vllm.entrypoints.openai.responses.utils import construct_input_messages, construct_tool_dicts  # noqa: E402
from vllm.renderers import renderer_from_config  # noqa: E402
from vllm.renderers.chat_utils import parse_chat_messages  # noqa: E402
from vllm.renderers.online_renderer import OnlineRenderer, ResponsesRenderResult  # noqa: E402


class Reader:
    def __init__(self, model: str) -> None:
        config = VllmConfig(model_config=ModelConfig(model=model, max_model_len=2048))
        self.model_config = config.model_config
        self.renderer = OnlineRenderer(
            model_config=config.model_config,
            renderer=renderer_from_config(config),
            request_logger=None,
            chat_template=None,
            chat_template_content_format="auto",
            trust_request_chat_template=True,
            enable_auto_tools=True,
            tool_parser="hermes",
            reasoning_parser="qwen3",
        )
        self.read: dict[str, Any] | None = None
        self.body = b""
        self.app = FastAPI()
        register_generate_api_routers(self.app)
        state = self.app.state
        state.openai_serving_chat = _Handler(self, "create_chat_completion", self.chat)
        state.openai_serving_chat_batch = _Handler(self, "create_batch_chat_completion", self.batch)
        state.anthropic_serving_messages = _Handler(self, "create_messages", self.messages)
        state.openai_serving_completion = _Handler(self, "create_completion", self.completions)
        state.openai_serving_responses = _Handler(self, "create_responses", self.responses)
        self.app.exception_handler(RequestValidationError)(_invalid)
        self.app.exception_handler(Exception)(_invalid)

    async def ask(self, path: str, headers: list[list[str]], body: bytes) -> dict[str, Any]:
        self.read, self.body = None, body
        sent: list[dict[str, Any]] = []
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if waiting:
                return waiting.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        try:
            await self.app(scope, receive, send)
        except _Kept:
            assert self.read is not None
            return self.read
        except Exception as problem:  # what the app answers with 500 it raises as well
            return {"verdict": "refused", "status": 500, "why": repr(problem)[:300]}
        status = next((message["status"] for message in sent if message["type"] == "http.response.start"), 500)
        said = b"".join(message.get("body", b"") for message in sent)
        return {"verdict": "refused", "status": status, "why": said.decode("utf-8", "replace")[:300]}

    async def chat(self, _request: Any) -> dict[str, Any]:
        return await self.chats("chat", lambda: [ChatCompletionRequest.model_validate(self.value())])

    async def batch(self, _request: Any) -> dict[str, Any]:
        def make() -> list[ChatCompletionRequest]:
            whole = BatchChatCompletionRequest.model_validate(self.value())
            return [whole.to_chat_completion_request(one) for one in whole.messages]

        return await self.chats("batch", make)

    async def messages(self, _request: Any) -> dict[str, Any]:
        def make() -> list[ChatCompletionRequest]:
            request = AnthropicMessagesRequest.model_validate(self.value())
            return [AnthropicServingMessages.to_chat_completion_request(request)]

        return await self.chats("messages", make)

    def value(self) -> Any:
        """The body once more: what pydantic makes of it holds iterators that can be read once."""
        return json.loads(self.body)

    async def chats(self, api: str, make: Callable[[], list[ChatCompletionRequest]]) -> dict[str, Any]:
        """``make`` gives the conversations as chat requests, afresh each time."""
        requests = make()
        seen: dict[str, Any] = {"string": [], "openai": [], "tools": [], "arguments": [], "ids": []}
        for form in ("string", "openai"):
            for again in make():
                seen[form] += parse_chat_messages(again.messages, self.model_config, form)[0]
        for request in requests:
            seen["tools"] += [tool.model_dump() for tool in request.tools or ()]
            seen["arguments"].append(request.build_chat_params(None, "auto").chat_template_kwargs)
            fields = request.model_dump(exclude={"messages"})
            rendered = await self.renderer.render_chat(request)
            if not isinstance(rendered, tuple):
                return _refused(str(rendered))
            request.to_sampling_params(16, {})
            seen["ids"] += rendered[1][0].get("prompt_token_ids") or []
        return {"verdict": "read", "api": api, "fields": fields, "seen": seen, "prompts": len(requests)}

    async def completions(self, request: Any) -> dict[str, Any]:
        fields = request.model_dump()
        rendered = await self.renderer.render_completion(request)
        if not isinstance(rendered, list):
            return _refused(str(rendered))
        request.to_sampling_params(16, {})
        prompts = [one.get("prompt") for one in rendered]
        ids = [number for one in rendered for number in one.get("prompt_token_ids") or ()]
        messages = [{"role": "user", "content": prompt} for prompt in prompts]
        seen = {"string": messages, "openai": [], "tools": [], "arguments": [], "ids": ids}
        return {"verdict": "read", "api": "completions", "fields": fields, "seen": seen, "prompts": len(prompts)}

    async def responses(self, request: Any) -> dict[str, Any]:
        kept = set(ResponsesRequest.model_fields) - {"input", "previous_input_messages"}
        fields = request.model_dump(include=kept, warnings=False)
        fields["max_tokens"] = fields["max_output_tokens"]
        fields["logprobs"] = "message.output_text.logprobs" in (request.include or ())
        fields["reasoning_effort"] = (fields["reasoning"] or {}).get("effort")
        seen: dict[str, Any] = {}
        for form in ("string", "openai"):
            again = ResponsesRequest.model_validate(self.value())
            messages = construct_input_messages(request_instructions=again.instructions, request_input=again.input)
            seen[form] = parse_chat_messages(messages, self.model_config, form)[0]
        seen["tools"] = construct_tool_dicts(request.tools, request.tool_choice) or []
        seen["arguments"] = [request.build_chat_params(None, "auto").chat_template_kwargs]
        rendered = await self.renderer.render_responses(request)
        if not isinstance(rendered, ResponsesRenderResult):
            return _refused(str(rendered))
        request.to_sampling_params(16, {})
        seen["messages"] = [_plain(message) for message in rendered.messages]
        seen["ids"] = rendered.engine_input.get("prompt_token_ids") or []
        return {"verdict": "read", "api": "responses", "fields": fields, "seen": seen}


def _plain(value: Any) -> Any:
    """A message without pydantic's objects in it."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if isinstance(value, str | int | float | None):
        return value
    return [_plain(inner) for inner in value]


class _Kept(BaseException):
    """The request has been read; there is no engine to answer it."""


def _refused(why: str) -> dict[str, Any]:
    return {"verdict": "refused", "status": 400, "why": why[:300]}


class _Handler:
    """Stands for one of vLLM's serving objects: ``name`` keeps what it is given."""

    def __init__(self, reader: Reader, name: str, keep: Any) -> None:
        async def handle(request: Any, _raw: Any = None, *_more: Any, **_other: Any) -> None:
            try:
                reader.read = await keep(request)
            except Exception as problem:  # vLLM answers it with an error of its own
                reader.read = _refused(repr(problem))
            raise _Kept

        setattr(self, name, handle)


async def _invalid(_request: Any, problem: Exception) -> JSONResponse:
    return JSONResponse({"error": str(problem)[:300]}, status_code=400)


async def main() -> None:
    reader = Reader(sys.argv[1])
    print(json.dumps({"ready": True}), file=_answers)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = await reader.ask(asked["path"], asked["headers"], base64.b64decode(asked["body"]))
        print(json.dumps(answer, default=str), file=_answers)


if __name__ == "__main__":
    asyncio.run(main())
