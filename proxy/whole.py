"""Takes one whole (not streamed) answer through the judge: the same questions and answers as the gate's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from proxy.exchange import Exchange
from proxy.gated_choice import Answer, Question, TextQuestion
from proxy.gated_text import Found, TextRule, TextWatch
from proxy.refusals import Refuse
from serving.wire.dialect import AnswerChoice, WholeAnswer
from serving.wire.masking import Masks, Surface, masked
from serving.wire.request import SentTool
from serving.wire.vocabulary import ChoiceDelta
from serving.wire.writer import ChoiceChange

AskOver = Callable[[Exchange, int], Awaitable[Answer]]
AskJudge = Callable[[Exchange, Question | TextQuestion], Awaitable[Answer]]


async def judge_whole(
    x: Exchange,
    body: bytes,
    ask: AskJudge,
    texts: Mapping[Surface, TextRule],
    *,
    hold: bool,
    closing: str,
    held_limit: int,
    over: AskOver | None = None,
) -> bytes | None:
    """The body that the client gets: the very same object if nothing was refused or masked. None if the answer is not
    understood. ``hold``: verdicts on calls count; if False they are asked for and change nothing. ``over`` is asked at
    last about each choice as a whole. Raises ``Refuse`` where the settings want an error in an answer's place."""
    answer = x.dialect.answer(body)
    if answer is None:
        return None
    x.seen.whole(answer)
    masks: dict[int, dict[Surface, Masks]] = {}
    for choice in answer.choices:
        if found := await _masks_of(x, texts, choice, ask, hold=hold):
            masks[choice.position] = found
    refused, arguments = await _calls(x, answer, ask, hold, held_limit) if x.cut_text is None else ({}, {})
    for choice in answer.choices if over is not None and not answer.pending else ():
        if x.cut_text is None and over is not None:
            _stop_if(x, await over(x, choice.number))
            if given := x.seen.choices[choice.number].masks:
                masks[choice.position] = dict(given.items())
    if x.cut_text is not None:
        changes = [ChoiceChange(c.position, {}, len(c.calls), closing, x.cut_text) for c in answer.choices]
    elif places := sorted(masks.keys() | refused.keys() | arguments.keys()):
        changes = [
            ChoiceChange(
                position,
                refused.get(position, {}),
                len(answer.choices[position].calls),
                closing,
                texts=masks.get(position, {}),
                arguments=arguments.get(position, {}),
            )
            for position in places
        ]
    else:
        return body
    return x.dialect.whole(x.request).whole(body, changes)


async def _masks_of(
    x: Exchange, texts: Mapping[Surface, TextRule], choice: AnswerChoice, ask: AskJudge, *, hold: bool
) -> dict[Surface, Masks]:
    """What is masked of the texts of a choice."""
    watch, questions = _watched(x.request.tools, texts, choice, hold=hold)
    while questions:
        answer = await ask(x, TextQuestion(0, choice.number, questions.pop(0)))
        _stop_if(x, answer)
        if answer.surface is not None and answer.masks is None:
            questions += watch.settle(answer.surface)
        elif answer.surface is not None and answer.masks is not None:
            watch.mask(answer.surface, answer.masks)
    surfaces: tuple[Surface, ...] = ("reasoning", "text")
    return {surface: masks for surface in surfaces if (masks := watch.masks(surface))}


def texts_of(
    tools: Sequence[SentTool], texts: Mapping[Surface, TextRule], choice: AnswerChoice, *, hold: bool
) -> list[Found]:
    """What is to be asked about the texts of a choice. Nothing of them has left."""
    return _watched(tools, texts, choice, hold=hold)[1]


def _watched(
    tools: Sequence[SentTool], texts: Mapping[Surface, TextRule], choice: AnswerChoice, *, hold: bool
) -> tuple[TextWatch, list[Found]]:
    watch = TextWatch(texts, frozenset(tool.name for tool in tools) if hold else None, whole=True)
    if not hold and not texts:
        return watch, []
    _, reasoning = watch.take(ChoiceDelta(choice.number, None, choice.reasoning))
    _, text = watch.take(ChoiceDelta(choice.number, choice.text))
    return watch, [*watch.standing([*reasoning, *text]), *watch.finish()]


async def _calls(
    x: Exchange, answer: WholeAnswer, ask: AskJudge, hold: bool, held_limit: int
) -> tuple[dict[int, dict[int, str]], dict[int, dict[int, str]]]:
    """The texts that take the place of refused calls, and the arguments of masked ones, by the position of their choice
    and their index."""
    asked: list[tuple[int, int, Question]] = []
    for choice in answer.choices:
        for call in choice.calls:
            large = hold and len(call.arguments.encode()) > held_limit
            asked.append((choice.position, call.index, Question(len(asked), call, "held_bytes" if large else None)))
    if not asked:
        return {}, {}
    verdicts = await asyncio.gather(*(ask(x, question) for _, _, question in asked))
    refused: dict[int, dict[int, str]] = {}
    changed: dict[int, dict[int, str]] = {}
    for (position, index, question), verdict in zip(asked, verdicts, strict=True):
        if verdict.arguments:
            changed.setdefault(position, {})[index] = masked(question.call.arguments, verdict.arguments)
        if verdict.refusal is not None and hold:
            _stop_if(x, verdict)
            refused.setdefault(position, {})[index] = verdict.refusal
    return refused, changed


def _stop_if(x: Exchange, verdict: Answer) -> None:
    """Raises ``Refuse`` for an error in the answer's place; notes a cut."""
    if verdict.refusal is None:
        return
    if verdict.error:
        raise Refuse("policy_denied", verdict.refusal)
    if verdict.cut:
        x.cut_text = x.cut_text or verdict.refusal
