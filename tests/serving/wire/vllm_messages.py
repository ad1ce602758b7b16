"""Run by vLLM's own interpreter: what it makes of bodies for ``/v1/messages`` (a JSON list on stdin, one on stdout).

For each body the messages and fields of the chat request that it becomes, or {"error": …}."""

import json
import sys


def main() -> None:
    from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages

    found = []
    for body in json.load(sys.stdin):
        try:
            request = AnthropicMessagesRequest.model_validate(body)
            chat = AnthropicServingMessages.to_chat_completion_request(request)
            said = chat.model_dump(mode="json", include={"messages", "tools", "tool_choice", "max_tokens", "stream"})
            said |= chat.model_dump(mode="json", include={"temperature", "top_p", "top_k", "stop", "reasoning_effort"})
            found.append(said)
        except Exception as problem:
            found.append({"error": f"{type(problem).__name__}: {problem}"})
    json.dump(found, sys.stdout)


main()
