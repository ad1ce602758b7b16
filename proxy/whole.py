"""Takes one whole (not streamed) answer through the judge: the same questions and answers as the gate's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from proxy.exchange import Exchange
from proxy.gated_choice import Answer, Question
from proxy.refusals import Refuse
from serving.wire.writer import ChoiceChange

JudgeCall = Callable[[Exchange, Question], Awaitable[Answer]]


async def judge_whole(
    x: Exchange, body: bytes, judge: JudgeCall, *, hold: bool, closing: str, held_limit: int
) -> bytes | None:
    """The body that the client gets: the very same object if nothing was refused. None if the answer is not
    understood. ``hold``: verdicts count; if False they are asked for and change nothing. Raises ``Refuse`` where the
    settings want an error in an answer's place."""
    answer = x.dialect.answer(body)
    if answer is None:
        return None
    x.seen.whole(answer)
    asked: list[tuple[int, int, Question]] = []
    for choice in answer.choices:
        for call in choice.calls:
            large = hold and len(call.arguments.encode()) > held_limit
            asked.append((choice.position, call.index, Question(len(asked), call, "held_bytes" if large else None)))
    if not asked:
        return body
    verdicts = await asyncio.gather(*(judge(x, question) for _, _, question in asked))
    refused: dict[int, dict[int, str]] = {}
    for (position, index, _), verdict in zip(asked, verdicts, strict=True):
        if verdict.refusal is not None and hold:
            if verdict.error:
                raise Refuse("policy_denied", verdict.refusal)
            if verdict.cut:
                x.cut_text = verdict.refusal
            refused.setdefault(position, {})[index] = verdict.refusal
    if not refused:
        return body
    if x.cut_text is not None:
        changes = [ChoiceChange(c.position, {}, len(c.calls), closing, x.cut_text) for c in answer.choices]
    else:
        changes = [
            ChoiceChange(position, texts, len(answer.choices[position].calls), closing)
            for position, texts in sorted(refused.items())
        ]
    return x.dialect.whole(x.request).whole(body, changes)
