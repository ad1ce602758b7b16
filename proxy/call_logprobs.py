"""How sure the model was of a tool call, as policies are told."""

from __future__ import annotations

from policies.model import ArgumentProbability, CallLogprobs, Probability, UnalignedArgument
from proxy.exchange import Seen
from serving.wire.token_alignment import ArgumentSureness, Sureness
from serving.wire.vocabulary import ToolCall

_DIGITS = 6


def call_logprobs(answer: Seen, call: ToolCall) -> CallLogprobs | None:
    """The logprob facts of ``call``; None if its answer shows no logprobs."""
    seen = answer.choices.get(call.choice)
    if seen is None or seen.trail is None:
        return None
    found = seen.trail.call(
        call.index,
        call.name,
        call.arguments,
        lambda: ((index, *seen.call(index)[1:]) for index in sorted(seen.calls)),
        complete=call.complete,
        final=seen.finish is not None,
    )
    if found is None:
        return None
    return CallLogprobs(
        answer=_probability(found.answer),
        name=None if found.name is None else _probability(found.name),
        arguments=[_argument(one) for one in found.arguments],
        unaligned=found.unaligned,
    )


def _probability(sure: Sureness) -> Probability:
    return Probability(min=round(sure.least, _DIGITS), mean=round(sure.mean, _DIGITS), tokens=sure.tokens)


def _argument(one: ArgumentSureness) -> ArgumentProbability | UnalignedArgument:
    if one.sure is None:
        return UnalignedArgument(path=one.path, unaligned=one.unaligned or "")
    sure = _probability(one.sure)
    return ArgumentProbability(path=one.path, min=sure.min, mean=sure.mean, tokens=sure.tokens)
