"""The part of `interlock bench efficacy` that asks a check, and how it shows what that would add."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from checks.llm import LlmCheck
from checks.verdict import CheckFailed
from checks.verdict import Verdict as Said
from proxy.desks import Desk, llm_desk, nemo_desk
from proxy.efficacy.judging import Verdict
from proxy.efficacy.second import Addition, Asking, Opinion, additions, as_json, chosen, cost, kind_of
from serving.config_file import Override, load
from serving.settings import Settings

_NAMES = {"tool_result": "results", "tool_call": "call"}
_LEGEND = (
    "  both: what policies or check speak up at, reckoned from those asked; the check does so too late to stop a call",
    "  at most: of the benign cases that the policies let be, it blocks no more, as far as those asked say (95 %)",
    "  order there: the results of a twin do hold an order, so blocking them is right",
)


class Second(msgspec.Struct):
    """What one check said. ``what``: which one, in words; ``disbelieved``: why live traffic would not believe it."""

    check: str
    what: str
    disbelieved: str
    rows: list[Addition]
    opinions: list[Opinion]

    def as_json(self) -> dict[str, Any]:
        return {"what": self.what, "disbelieved": self.disbelieved, **as_json(self.rows, self.opinions)}

    def show(self, console: Console, examples: int) -> None:
        console.print(f"\nsecond opinion: {self.what}", markup=False, highlight=False, soft_wrap=True)
        if self.disbelieved:
            console.print(self.disbelieved, markup=False, highlight=False, soft_wrap=True)
        console.print(_table(self.rows))
        for line in _LEGEND:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        spent = cost(self.opinions)
        console.print(
            f"{spent.questions} questions; of those answered: {spent.tokens_mean} tokens (most {spent.tokens_most}), "
            f"{spent.ms_median} ms (p95 {spent.ms_p95})",
            highlight=False,
            soft_wrap=True,
        )
        for why, count in spent.failed.items():
            console.print(f"  {count} not answered, {why}", markup=False, highlight=False, soft_wrap=True)
        for line in _mistakes(self.opinions, examples):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def settings_of(arguments: argparse.Namespace) -> Settings | None:
    """The settings, if anything is to be taken from them. Raises ``ConfigError``."""
    given = []
    if arguments.llm:
        given.append(Override("checks.llm.url", arguments.llm, "--llm"))
    if arguments.llm_model is not None:
        given.append(Override("checks.llm.model", arguments.llm_model, "--llm-model"))
    if arguments.nemo:
        given.append(Override("checks.nemo.url", arguments.nemo, "--nemo"))
    if arguments.config is None and arguments.llm is None and arguments.nemo is None:
        return None
    return load(arguments.config, overrides=given)


async def second_opinions(
    verdicts: Sequence[Verdict], arguments: argparse.Namespace, settings: Settings
) -> list[Second]:
    """Asks the checks that ``arguments`` name. Raises ``CheckFailed`` if one cannot be asked at all, and
    ``ValueError`` if the settings do not say where it is."""
    asked = chosen(verdicts, arguments.limit, arguments.benign)
    found = []
    if arguments.llm is not None:
        found.append(await _ask_llm(verdicts, asked, settings))
    if arguments.nemo is not None:
        found.append(await _ask_nemo(verdicts, asked, settings))
    return found


async def _ask_llm(verdicts: Sequence[Verdict], asked: Sequence[Verdict], settings: Settings) -> Second:
    """Without the proof, so that a model that fails it is measured too: the proof is asked for once, and said."""
    llm = settings.checks.llm
    if llm.model is None:
        raise ValueError("which model? give --llm-model, or `checks.llm.model` in the settings")
    checks = settings.checks.model_copy(update={"llm": llm.model_copy(update={"prove": False})})
    settings = settings.model_copy(update={"checks": checks})
    asking = Asking(llm.concurrency)
    async with _open(llm_desk(settings, asking.take), asking.take) as desk:
        assert isinstance(desk.check, LlmCheck)
        disbelieved = ""
        try:
            await desk.check.prove()
        except CheckFailed as failure:
            if failure.kind != "cannot judge":
                raise
            disbelieved = (
                "It does not tell two poisoned samples from two clean ones: live, each of its verdicts would be an "
                "error (`cannot judge`). This is what it says all the same."
            )
        opinions = await asking.opinions(asked, desk)
    what = f"model {llm.model} at {llm.url or settings.upstream.url}, threshold {llm.threshold}"
    return Second("llm", what, disbelieved, additions(verdicts, opinions), opinions)


async def _ask_nemo(verdicts: Sequence[Verdict], asked: Sequence[Verdict], settings: Settings) -> Second:
    nemo = settings.checks.nemo
    if nemo.url is None:
        raise ValueError("where is the NeMo Guardrails server? give --nemo URL, or `checks.nemo.url` in the settings")
    asking = Asking(settings.checks.concurrency)
    async with _open(nemo_desk(settings.checks, asking.take), asking.take) as desk:
        opinions = await asking.opinions(asked, desk)
    what = f"NeMo Guardrails at {nemo.url}, configuration {nemo.config_id}"
    return Second("nemo", what, "", additions(verdicts, opinions), opinions)


@contextlib.asynccontextmanager
async def _open(desk: Desk, take: Callable[[Said], None]) -> AsyncIterator[Desk]:
    try:
        yield desk
    finally:
        await desk.scheduler.close(0.0)
        await desk.session.close()


def _table(rows: Sequence[Addition]) -> Table:
    table = Table("source", "cases", "judged", "policies", "asked", "blocked", "unsure", "both", "at most", box=None)
    for row in rows:
        alone = f"{row.stopped}/{row.cases} {row.stopped / row.cases:.1%}"
        both = "" if row.kind == "stopped wrongly" else "?" if row.share is None else f"{row.share:.1%}"
        bound = ""
        if (row.kind, row.surface) == ("twin", "tool_result"):
            both = "order there"
        elif row.kind in ("benign", "twin"):
            bound = f"{row.at_most:.0%}"
        counts = (f"{row.asked}/{row.open}", str(row.blocked), str(row.undecided))
        table.add_row(escape(row.source), row.kind, _NAMES[row.surface], alone, *counts, both, bound)
    for column in table.columns:
        column.no_wrap = True
    return table


def _mistakes(opinions: Sequence[Opinion], examples: int) -> list[str]:
    """What it let by as well, and what it blocked though benign (a twin's results do hold an order)."""
    lines: list[str] = []
    benign = [one for one in opinions if kind_of(one.verdict) != "attack"]
    benign = [one for one in benign if (kind_of(one.verdict), one.surface) != ("twin", "tool_result")]
    for title, wrong in (
        ("let by as well", [one for one in opinions if one.verdict.case.bad and not one.blocked]),
        ("blocked, though benign", [one for one in benign if one.blocked]),
    ):
        for one in wrong[:examples]:
            said = one.strictest
            score = "" if said.score is None else f", score {said.score:.2f}"
            judged = f"{kind_of(one.verdict)}, {_NAMES[one.surface]}: {said.status}{score}"
            lines.append(f"{title}: {one.verdict.case.source}  {one.verdict.case.id}  {judged}")
    return lines
