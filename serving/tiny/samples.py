"""Training rows: scripted dialogues in contexts that must not matter.

The model has to answer the last messages whatever surrounds them. So a row puts its script behind a
random system prompt, offers the script's tools among others in any order, may tell an earlier task
first, may forget the reasoning of earlier turns as many clients do, and lets random words stand
where a guard's refusal would.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from serving.tiny.dialogue import Message, Script, Tool, Turn
from serving.tiny.harness import Harness, message_of, turns
from serving.tiny.scripts import LOOP, POLL, SCRIPTS, TOOLS

IGNORED = -100
"""The label of a token that the loss does not look at (torch's convention)."""

_FOREIGN_TOOLS = (
    Tool("search", "Search the web", {"query": "string"}),
    Tool("now", "Current time", {"zone": "string"}),
    Tool("write_file", "Write a file", {"path": "string", "text": "string"}),
)
_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a coding agent in a sandbox. Use the tools when they help.",
    "Be brief.",
)
_REFUSALS = (
    "[interlock] The call to {tool} was not executed: rule {rule}. You may go on without it.",
    "The call of {tool} was refused by the policy {rule}. Nothing was executed.",
    "Blocked: {rule}. What is allowed instead: {words}.",
    "I cannot do that. {words}.",
    "{words}",
)
_WORD_TEXT = (
    "a access agent all allowed and any are argument ask at be but by call can change command data"
    " delete deny destructive do each executed file find folder for from go guard has hold if in"
    " instead is it key know list may must never no not nothing of on only open or other outside"
    " path policy prod read refused remove rule run safe say secret secrets see shell stop task"
    " that the then this to tool use user was what when which with without workspace you your"
)
_WORDS = _WORD_TEXT.split()


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids of a rendered conversation; ``labels`` repeats those that the model must say."""

    ids: list[int]
    labels: list[int]


class Sampler:
    """An endless source of rows. Equal seeds give equal rows."""

    def __init__(self, tokenizer: Any, seed: int) -> None:
        self._tokenizer = tokenizer
        self._random = random.Random(seed)

    def rows(self) -> Iterator[Row]:
        """Rows of all scripts; those with two endings come twice as often."""
        scripts = SCRIPTS + tuple(script for script in SCRIPTS if script.refused)
        while True:
            yield self.row(self._random.choice(scripts))

    def row(self, script: Script) -> Row:
        """A whole dialogue, or one turn with a history that lost its reasoning."""
        rng = self._random
        script = self._polling() if script in (LOOP, POLL) else script
        history, targets = self._dialogue(script)
        start = self._start(script)
        tools = self._tools(script)
        if rng.random() < 0.4:
            return self._row(start, history, targets, tools)
        index = rng.choice(list(targets))
        history = start + _without_reasoning(history[:index])
        return self._single(history, targets[index], tools, thinking=rng.random() < 0.5)

    def exam(self, script: Script) -> Iterator[Row]:
        """Every turn of a script in the contexts that ordinary clients make, without any chance."""
        offers: list[list[Any] | None] = [[TOOLS[name].definition() for name in script.tools]]
        offers.append([tool.definition() for tool in TOOLS.values()] if script.tools else None)
        for _, turn, body in turns(script):
            history = body["messages"]
            for kept in (history, _without_reasoning(history)):
                for system in (None, *_SYSTEMS):
                    start = [] if system is None else [{"role": "system", "content": system}]
                    for tools in offers:
                        yield self._single(start + kept, turn, tools or None)

    def _dialogue(self, script: Script) -> tuple[list[Message], dict[int, Turn]]:
        """The messages, and by message index the turns that the model must say there."""
        refused = bool(script.refused) and self._random.random() < 0.5
        harness = Harness(script)
        targets: dict[int, Turn] = {}
        while not harness.done and (turn := harness.expected) is not None:
            targets[len(harness.messages)] = turn
            without = turn.forbidden if refused else ()
            message = message_of(turn, without=without)
            if without:
                message["content"] = self._refusal(turn)
            harness.take(message)
        return harness.messages, targets

    def _row(self, start: list[Message], history: list[Message], targets: dict[int, Turn], tools: Any) -> Row:
        """Every turn that stands in the history as the model said it is a target."""
        spans = []
        for index, turn in targets.items():
            if history[index] == message_of(turn):
                begin = len(self._render(start + history[:index], tools, prompt=True))
                spans.append((begin, len(self._render(start + history[: index + 1], tools)) - 1))
        return self._tokens(self._render(start + history, tools), spans)

    def _single(self, history: list[Message], turn: Turn, tools: Any, *, thinking: bool = True) -> Row:
        target = message_of(turn)
        prompt = self._render(history, tools, prompt=True, enable_thinking=thinking)
        if not thinking:
            del target["reasoning"]
        bare = self._render(history, tools, prompt=True)
        answer = self._render([*history, target], tools)[len(bare) : -1]
        return self._tokens(prompt + answer, [(len(prompt), len(prompt) + len(answer))])

    def _render(self, messages: list[Message], tools: Any, *, prompt: bool = False, **options: Any) -> str:
        text: str = self._tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=prompt, **options
        )
        return text

    def _tokens(self, text: str, spans: list[tuple[int, int]]) -> Row:
        encoded = self._tokenizer(text, return_offsets_mapping=True)
        labels = [
            token if any(begin <= at < end for begin, end in spans) else IGNORED
            for token, (at, _) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]
        return Row(encoded["input_ids"], labels)

    def _polling(self) -> Script:
        """The loop and the poll, with any number of any results, ending in green or not at all."""
        rng = self._random
        (key,) = POLL.results or {}
        length = rng.randint(1, 24) if rng.random() < 0.1 else rng.randint(0, 8)
        states = [rng.choice(("pending", f"building: {rng.randrange(100)} %"))] * length
        if rng.random() < 0.7:
            states = [rng.choice((state, f"building: {rng.randrange(100)} %")) for state in states]
        again = (POLL.turns[1],) * length
        green = rng.random() < 0.5
        if not states and not green:
            return replace(POLL, turns=POLL.turns[:1])
        end, last = (POLL.turns[-1:], ["green: 100 %"]) if green else ((), [])
        return replace(POLL, turns=(POLL.turns[0], *again, *end), results={key: (*states, *last)})

    def _start(self, script: Script) -> list[Message]:
        rng = self._random
        messages: list[Message] = []
        if rng.random() < 0.7:
            system = rng.choice((*_SYSTEMS, self._salad(4, 30)))
            messages.append({"role": "system", "content": system})
        if rng.random() < 0.15:
            earlier = rng.choice([other for other in SCRIPTS if other.prompt != script.prompt])
            history, _ = self._dialogue(replace(earlier, loop=None))
            messages += history if rng.random() < 0.5 else _without_reasoning(history)
        return messages

    def _tools(self, script: Script) -> list[dict[str, Any]] | None:
        rng = self._random
        needed = [TOOLS[name] for name in script.tools]
        others = [tool for tool in TOOLS.values() if tool.name not in script.tools]
        if not needed and rng.random() < 0.6:
            return None
        more = rng.choices(([], rng.sample([*others, *_FOREIGN_TOOLS], 2), others), weights=(3, 4, 1))[0]
        offered = needed + more
        rng.shuffle(offered)
        return [tool.definition() for tool in offered] or None

    def _refusal(self, turn: Turn) -> str:
        rng = self._random
        words = self._salad(3, 30)
        rule = "-".join(rng.sample(_WORDS, 2))
        text = rng.choice(_REFUSALS).format(tool=turn.forbidden[0].name, rule=rule, words=words)
        return f"{turn.text}\n\n{text}" if rng.random() < 0.7 else text

    def _salad(self, least: int, most: int) -> str:
        rng = self._random
        return " ".join(rng.choices(_WORDS, k=rng.randint(least, most))).capitalize()


def _without_reasoning(messages: list[Message]) -> list[Message]:
    return [{k: v for k, v in message.items() if k != "reasoning"} for message in messages]
