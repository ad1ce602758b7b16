"""The agent's side of a script, without I/O.

A harness holds the conversation. Ask it for the ``request()``, hand the answer's message to
``take()``, and repeat until ``done``. It executes nothing: what a tool returns is looked up in the
script. It notices that a forbidden call is missing from an answer, as it is behind a guard, and then
follows the script's other ending.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from serving.tiny.dialogue import Call, Message, Script, Turn, canonical
from serving.tiny.scripts import TOOLS

LOOP_TURNS = 8
"""How many turns of an endless script ``turns`` gives."""

REFUSAL = "[interlock] This call was not executed."
UNKNOWN_RESULT = "error: nothing is known of this call"


class Harness:
    """One run of one agent.

    ``system`` is an optional system prompt; the model answers the same with any or none.
    """

    def __init__(self, script: Script, *, system: str | None = None) -> None:
        self.script = script
        self.messages: list[Message] = [] if system is None else [_system(system)]
        self.messages.append({"role": "user", "content": script.prompt})
        self.done = False
        self.refused = False
        self.answers = 0
        self._seen: Counter[tuple[str, str]] = Counter()

    @property
    def expected(self) -> Turn | None:
        """What the model says next if it keeps to its script."""
        return self.script.expected(self.answers, refused=self.refused)

    def request(self, **options: Any) -> dict[str, Any]:
        """The body of the next chat completion; ``options`` are added to it."""
        body: dict[str, Any] = {"model": "tiny", "temperature": 0, "messages": list(self.messages)}
        if self.script.tools:
            body["tools"] = [TOOLS[name].definition() for name in self.script.tools]
        return body | options

    def take(self, message: Message) -> None:
        """Go on after an answer's ``message`` (OpenAI's shape; ids and reasoning are kept)."""
        turn = self.expected
        calls = message.get("tool_calls") or []
        self.messages.append(message)
        self.answers += 1
        if turn is not None and _missing(turn.forbidden, calls):
            self.refused = True
            if not calls:
                self.messages.append({"role": "user", "content": self.script.follow_up})
                return
        if not calls:
            self.done = True
        for call in calls:
            result = self._result(call["function"]["name"], call["function"]["arguments"])
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})

    def _result(self, name: str, arguments: str) -> str:
        key = _key(name, arguments)
        results = (self.script.results or {}).get(key)
        if results is None:
            return UNKNOWN_RESULT
        nth = min(self._seen[key], len(results) - 1)
        self._seen[key] += 1
        return results[nth]


def message_of(turn: Turn, *, ids: str = "call", without: tuple[Call, ...] = ()) -> Message:
    """The message in which a client gets ``turn``, the calls in ``without`` left out."""
    calls = [
        {
            "id": f"{ids}-{index}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))},
        }
        for index, call in enumerate(turn.calls)
        if call not in without
    ]
    message: Message = {"role": "assistant", "content": turn.text, "reasoning": turn.reasoning}
    return message | {"tool_calls": calls} if calls else message


def turns(script: Script) -> Iterator[tuple[str, Turn, dict[str, Any]]]:
    """Name, expected turn and request of each answer, with nothing refused and with all refused."""
    for refused in (False, True) if script.refused else (False,):
        harness = Harness(script)
        while (turn := harness.expected) is not None and harness.answers < LOOP_TURNS:
            ending = "-refused" if harness.refused else ""
            yield f"{script.id}-{harness.answers}{ending}", turn, harness.request()
            without = turn.forbidden if refused else ()
            given = message_of(turn, ids=f"call-{harness.answers}", without=without)
            harness.take(given | {"content": REFUSAL} if without else given)


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _key(name: str, arguments: str) -> tuple[str, str]:
    try:
        return name, canonical(json.loads(arguments))
    except ValueError:
        return name, arguments


def _missing(wanted: tuple[Call, ...], calls: list[dict[str, Any]]) -> bool:
    given = {_key(call["function"]["name"], call["function"]["arguments"]) for call in calls}
    return any(call.key not in given for call in wanted)
