"""Answers of the Responses API as vLLM writes them: items that open, grow, close and are said again at the end."""

from __future__ import annotations

from typing import Any

from proxy.selftest.says import Call, Say, dump, pieces

_ID = "resp_0011223344556677"


class ResponsesWire:
    """Writes one answer of ``model`` to a request that offered ``tools``."""

    def __init__(self, model: str, tools: list[dict[str, Any]]) -> None:
        self._model = model
        self._tools = tools
        self._events: list[bytes] = []
        self._output: list[dict[str, Any]] = []

    def stream(self, say: Say) -> list[bytes]:
        """The events of a streamed answer."""
        for kind in ("created", "in_progress"):
            self._emit(f"response.{kind}", response=self._response([], "in_progress"))
        if say.reasoning:
            self._part("reasoning", say.reasoning)
        if say.text:
            self._part("output", say.text)
        for number, call in enumerate(say.calls):
            self._call(call, number)
        self._emit("response.completed", response=self._response(self._output, "completed"))
        return self._events

    def whole(self, say: Say) -> bytes:
        """The body of an answer that is not streamed."""
        output = [_reasoning(say.reasoning, "rs_00", None)] if say.reasoning else []
        output += [_message(say.text, "msg_01", "completed")] if say.text else []
        output += [_call_item(call, number, call.arguments, "completed") for number, call in enumerate(say.calls)]
        return dump(self._response(output, "completed"))

    def _part(self, kind: str, text: str) -> None:
        """A message, or the reasoning before it: one part of text."""
        at = len(self._output)
        item_id = f"{'rs' if kind == 'reasoning' else 'msg'}_{at:016x}"
        where = {"content_index": 0, "item_id": item_id, "output_index": at}
        said = "reasoning_text" if kind == "reasoning" else "output_text"
        made = _reasoning if kind == "reasoning" else _message
        empty: dict[str, Any] = {"text": "", "type": said}
        extra: dict[str, Any] = {} if kind == "reasoning" else {"annotations": [], "logprobs": []}
        shown: dict[str, Any] = {} if kind == "reasoning" else {"logprobs": []}
        self._emit("response.output_item.added", item=made("", item_id, "in_progress"), output_index=at)
        self._emit("response.content_part.added", **where, part={**extra, **empty})
        for piece in pieces(text):
            self._emit(f"response.{said}.delta", **where, delta=piece, **shown)
        item = made(text, item_id, "completed")
        self._emit(f"response.{said}.done", **where, text=text, **shown)
        self._emit("response.content_part.done", **where, part=item["content"][0])
        self._emit("response.output_item.done", item=item, output_index=at)
        self._output.append(item)

    def _call(self, call: Call, number: int) -> None:
        at = len(self._output)
        where = {"item_id": f"fc_{number:016x}", "output_index": at}
        self._emit("response.output_item.added", item=_call_item(call, number, "", "in_progress"), output_index=at)
        for piece in pieces(call.arguments):
            self._emit("response.function_call_arguments.delta", **where, delta=piece)
        said = {"arguments": call.arguments, "name": call.name}
        self._emit("response.function_call_arguments.done", **where, **said)
        item = _call_item(call, number, call.arguments, "completed")
        self._emit("response.output_item.done", item=item, output_index=at)
        self._output.append(item)

    def _emit(self, kind: str, **fields: Any) -> None:
        value = {**fields, "sequence_number": len(self._events), "type": kind}
        self._events.append(f"event: {kind}\ndata: ".encode() + dump(value) + b"\n\n")

    def _response(self, output: list[dict[str, Any]], status: str) -> dict[str, Any]:
        details = {"cached_tokens": 0}
        usage = {
            "input_tokens": 40,
            "input_tokens_details": details,
            "output_tokens": 40,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 80,
        }
        return {
            "id": _ID,
            "created_at": 1795214304,
            "incomplete_details": None,
            "instructions": None,
            "metadata": None,
            "model": self._model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": True,
            "temperature": 0.0,
            "tool_choice": "auto",
            "tools": [{**tool, "strict": None} for tool in self._tools],
            "top_p": 1.0,
            "background": False,
            "max_output_tokens": 1773,
            "previous_response_id": None,
            "service_tier": "auto",
            "status": status,
            "truncation": "disabled",
            "usage": usage if status == "completed" else None,
            "user": None,
        }


def _call_item(call: Call, number: int, arguments: str, status: str) -> dict[str, Any]:
    return {
        "arguments": arguments,
        "call_id": f"chatcmpl-tool-{number:016x}",
        "name": call.name,
        "type": "function_call",
        "id": f"fc_{number:016x}",
        "status": status,
    }


def _message(text: str, item_id: str, status: str) -> dict[str, Any]:
    part: dict[str, Any] = {"annotations": [], "text": text, "type": "output_text", "logprobs": None}
    return {
        "id": item_id,
        "content": [part] if text else [],
        "role": "assistant",
        "status": status,
        "type": "message",
    }


def _reasoning(text: str, item_id: str, status: str | None) -> dict[str, Any]:
    content = [{"text": text, "type": "reasoning_text"}] if text else None
    return {"id": item_id, "summary": [], "type": "reasoning", "content": content, "status": status}
