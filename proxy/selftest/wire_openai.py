"""Answers of chat completions and completions in vLLM's wire form: a token an event; with ``tokens`` the client asked
for logprobs and token ids as well, so all that a choice said stands there again."""

from __future__ import annotations

from typing import Any

from proxy.selftest.says import Say, Token, Vocabulary, call_id, dump, tokens

_CHAT = {"id": "chatcmpl-00112233aabbccdd", "object": "chat.completion.chunk", "created": 1795214300}
_TEXT = {"id": "cmpl-00112233aabbccdd", "object": "text_completion", "created": 1795214304}
_USAGE = {"prompt_tokens": 40, "total_tokens": 80, "completion_tokens": 40}


class OpenAIWire:
    """Writes answers of ``model``; a fresh ``vocabulary`` says what the token ids mean."""

    def __init__(self, model: str, vocabulary: Vocabulary, *, shown: bool) -> None:
        self._chat = {**_CHAT, "model": model}
        self._text = {**_TEXT, "model": model}
        self._vocabulary = vocabulary
        self._shown = shown

    def chat_stream(self, says: list[Say]) -> list[bytes]:
        begin: dict[str, Any] = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        events = [
            _event({**self._chat, "choices": [{"index": n, **begin}], "prompt_token_ids": None})
            for n in range(len(says))
        ]
        lanes = []
        for number, say in enumerate(says):
            lane, every = [], tokens(say)
            for at, token in enumerate(every):
                last = at == len(every) - 1
                if not (token.delta or last or self._shown):
                    continue
                choice: dict[str, Any] = {
                    "index": number,
                    "delta": token.delta,
                    "logprobs": self._logprobs([token]) if self._shown else None,
                    "finish_reason": say.reason if last else None,
                    **({"stop_reason": None} if last else {}),
                    "token_ids": self._ids([token]) if self._shown else None,
                }
                lane.append(_event({**self._chat, "choices": [choice]}))
            lanes.append(lane)
        return [*events, *_in_turn(lanes), b"data: [DONE]\n\n"]

    def chat_whole(self, says: list[Say]) -> bytes:
        choices = []
        for number, say in enumerate(says):
            message: dict[str, Any] = {"role": "assistant", "content": say.text or None, "refusal": None}
            if say.calls:
                message["tool_calls"] = [
                    {
                        "id": call_id(index),
                        "type": "function",
                        "function": {"name": call.name, "arguments": call.arguments},
                    }
                    for index, call in enumerate(say.calls)
                ]
            message["reasoning"] = say.reasoning or None
            every = tokens(say)
            choices.append(
                {
                    "index": number,
                    "message": message,
                    "logprobs": self._logprobs(every) if self._shown else None,
                    "finish_reason": say.reason,
                    "stop_reason": None,
                    "token_ids": self._ids(every) if self._shown else None,
                }
            )
        return dump({**self._chat, "object": "chat.completion", "choices": choices, "usage": _USAGE})

    def completion_stream(self, says: list[Say]) -> list[bytes]:
        lanes = []
        for number, say in enumerate(says):
            lane, every, at = [], tokens(say), 0
            for place, token in enumerate(every):
                text = token.delta.get("content", "")
                finish = "stop" if place == len(every) - 1 else None
                lane.append(
                    _event({**self._text, "choices": [self._completion(number, text, [token], at, finish, "stream")]})
                )
                at += len(text)
            lanes.append(lane)
        return [*_in_turn(lanes), b"data: [DONE]\n\n"]

    def completion_whole(self, says: list[Say]) -> bytes:
        choices = [self._completion(n, say.text, tokens(say), 0, "stop", "whole") for n, say in enumerate(says)]
        return dump({**self._text, "choices": choices, "usage": _USAGE})

    def _completion(
        self, number: int, text: str, group: list[Token], at: int, finish: str | None, form: str
    ) -> dict[str, Any]:
        offsets = []
        for token in group:
            offsets.append(at)
            at += len(token.text)
        said = [token.text for token in group]
        logprobs = {
            "text_offset": offsets,
            "token_logprobs": [-0.25] * len(said),
            "tokens": said,
            "top_logprobs": [{one: -0.25} for one in said],
        }
        rest = {"prompt_token_ids": None} | ({"prompt_logprobs": None} if form == "whole" else {})
        return {
            "index": number,
            "text": text,
            "logprobs": logprobs if self._shown else None,
            "finish_reason": finish,
            "stop_reason": None,
            "token_ids": self._ids(group) if self._shown else None,
            **rest,
        }

    def _ids(self, group: list[Token]) -> list[int]:
        return [self._vocabulary.id(token.text) for token in group]

    def _logprobs(self, group: list[Token]) -> dict[str, Any]:
        shown = []
        for token in group:
            entry = {"token": token.text, "logprob": -0.25, "bytes": list(token.text.encode())}
            shown.append({**entry, "top_logprobs": [entry]})
        return {"content": shown}


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + dump(value) + b"\n\n"


def _in_turn(lanes: list[list[bytes]]) -> list[bytes]:
    """The choices' events as they come: now of one, now of another."""
    longest = max(map(len, lanes))
    return [lane[at] for at in range(longest) for lane in lanes if at < len(lane)]
