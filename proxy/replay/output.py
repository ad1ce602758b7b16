"""What `interlock policy replay` prints: for people, and as JSON. Texts of the traffic are masked and printable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from proxy.replay.running import Replay
from proxy.replay.tally import Change, Kind, Tally
from serving.text import printable
from tracing.exchange import utc

_TITLES: dict[Kind, tuple[str, str, str]] = {
    "newly_denied": ("newly denied", "passed then, stopped now", "red"),
    "newly_allowed": ("newly allowed", "stopped then, passes now", "yellow"),
    "other_rule": ("by another rule", "stopped then and now", "cyan"),
}
_NAMES = 4
_NAMED = 8


def report(found: Replay, against: str) -> RenderableType:
    """The whole report. ``against``: what it was compared with, in words."""
    tally = found.tally
    parts: list[RenderableType] = [_head(found, against)]
    for kind, (title, meaning, colour) in _TITLES.items():
        number = tally.count(kind)
        if number or kind != "other_rule":
            exchanges = f" in {_many(tally.changed[kind], 'exchange')}" if number else ""
            line = Text.assemble("\n", (f"{title}  ", f"bold {colour}" if number else "bold"), f"{number}{exchanges}")
            parts.append(line.append(f"  ({meaning})", style="dim"))
            parts += _changes(tally, kind)
    if tally.findings:
        parts += [Text("\nfindings that stop nothing", style="bold"), *_findings(tally)]
    parts += _answerable(tally)
    parts.append(_cost(found))
    return Group(*parts)


def _head(found: Replay, against: str) -> Text:
    tally = found.tally
    modes: dict[str, list[str]] = {}
    for name, mode in sorted(found.modes.items()):
        modes.setdefault(mode.value, []).append(name)
    when = f", {utc(tally.first_ns)[:16]} to {utc(tally.last_ns)[:16]} UTC" if tally.exchanges else ""
    text = Text()
    text.append(f"{_many(tally.exchanges, 'stored exchange')}", style="bold").append(f"{when}\n")
    passed = tally.exchanges - tally.judged
    if passed:
        text.append(f"refused before any policy was asked, and left alone: {passed}\n", style="dim")
    text.append(f"bundle {found.bundle.digest.removeprefix('sha256:')[:12]}, compared with {against}\n")
    for word in ("enforce", "warn", "shadow"):
        if word in modes:
            text.append(f"{word}: ", style="dim").append(f"{_policies(modes[word])}\n")
    text.rstrip()
    return text


def _policies(names: list[str]) -> str:
    """One's own by name; the shipped ones too, unless there are many."""
    shipped = [name for name in names if name.startswith("interlock.")]
    if len(shipped) <= _NAMED:
        return ", ".join(names)
    own = [name for name in names if name not in shipped]
    return " and ".join([", ".join(own)] * bool(own) + [f"{len(shipped)} shipped policies"])


def _changes(tally: Tally, kind: Kind) -> Iterator[RenderableType]:
    rules: Counter[str] = Counter()
    agents: dict[str, Counter[str]] = {}
    days: dict[str, Counter[str]] = {}
    for (one, rule, agent, day), number in tally.changes.items():
        if one == kind:
            rules[rule] += number
            agents.setdefault(rule, Counter())[agent] += number
            days.setdefault(rule, Counter())[day] += number
    for rule, number in rules.most_common():
        line = Text.assemble("  ", (printable(rule, 120), "bold"), f"  {number}")
        line.append(f"   agents: {_top(agents[rule])}   days: {_top(days[rule], by_name=True)}", style="dim")
        yield line
        for change in tally.examples.get((kind, rule), ()):
            yield Text(f"      {_example(change)}")


def _example(change: Change) -> str:
    where = f"{change.exchange[:8]}  {utc(change.opened_ns)[5:16]}  {printable(change.agent, 40)}  {change.place}"
    return f"{where}  {change.excerpt}".rstrip()


def _top(counts: Counter[str], *, by_name: bool = False) -> str:
    shown = counts.most_common(_NAMES)
    if by_name:
        shown.sort()
    words = [f"{printable(name, 40)} {number}" for name, number in shown]
    if len(counts) > len(shown):
        words.append(f"{len(counts) - len(shown)} more")
    return ", ".join(words)


def _findings(tally: Tally) -> Iterator[RenderableType]:
    agents: dict[str, Counter[str]] = {}
    days: dict[str, Counter[str]] = {}
    for (rule, agent, day), number in tally.found.items():
        agents.setdefault(rule, Counter())[agent] += number
        days.setdefault(rule, Counter())[day] += number
    told: set[str] = set()
    for (rule, mode, action), number in tally.findings.most_common():
        line = Text.assemble("  ", (printable(rule, 120), "bold"), f"  {number}  {action} ({mode})")
        if rule in told:
            yield line
            continue
        told.add(rule)
        line.append(f"   agents: {_top(agents[rule])}   days: {_top(days[rule], by_name=True)}", style="dim")
        yield line
        for change in tally.found_examples.get(rule, ()):
            yield Text(f"      {_example(change)}")


def _answerable(tally: Tally) -> Iterator[RenderableType]:
    share = f"{tally.answerable:.1%}"
    line = Text("\nanswerable  ", style="bold").append(share, style="green" if tally.answerable >= 0.95 else "red")
    yield line.append(f" of {_many(tally.judged, 'exchange')}; of {tally.unanswerable} it is not known")
    for lost, number in tally.lost.most_common():
        such = " ".join(one[:8] for one in tally.lost_examples.get(lost, ()))
        what = f"{printable(lost.policy, 80)} reads {lost.field}: {printable(lost.why, 120)}"
        yield Text(f"  {number:>6}  {what}").append(f"  {such}", style="dim")


def _cost(found: Replay) -> Text:
    each = found.seconds / found.tally.exchanges * 1e3 if found.tally.exchanges else 0.0
    text = f"\n{found.seconds:.2f} s, {found.engine_seconds:.2f} s of it for {_many(found.questions, 'decision')}"
    return Text(f"{text}; {each:.2f} ms an exchange", style="dim")


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def as_json(found: Replay, against: str) -> dict[str, Any]:
    """The same as plain data."""
    tally = found.tally
    return {
        "bundle": found.bundle.digest,
        "against": against,
        "modes": {name: mode.value for name, mode in sorted(found.modes.items())},
        "exchanges": tally.exchanges,
        "judged": tally.judged,
        "from": utc(tally.first_ns) if tally.exchanges else None,
        "to": utc(tally.last_ns) if tally.exchanges else None,
        **{kind: _kind(tally, kind) for kind in _TITLES},
        "findings": [
            {"rule": rule, "mode": mode, "action": action, "places": number}
            for (rule, mode, action), number in tally.findings.most_common()
        ],
        "answerable": tally.answerable,
        "unanswerable": {
            "exchanges": tally.unanswerable,
            "reasons": [
                {
                    "policy": lost.policy,
                    "field": lost.field,
                    "why": lost.why,
                    "places": number,
                    "examples": tally.lost_examples.get(lost, []),
                }
                for lost, number in tally.lost.most_common()
            ],
        },
        "seconds": round(found.seconds, 6),
        "engine_seconds": round(found.engine_seconds, 6),
        "decisions": found.questions,
    }


def _kind(tally: Tally, kind: Kind) -> dict[str, Any]:
    return {
        "places": tally.count(kind),
        "exchanges": tally.changed[kind],
        "by": [
            {"rule": rule, "agent": agent, "day": day, "places": number}
            for (one, rule, agent, day), number in sorted(tally.changes.items())
            if one == kind
        ],
        "examples": list(_examples(examples for (one, _), examples in tally.examples.items() if one == kind)),
    }


def _examples(found: Iterable[list[Change]]) -> Iterator[dict[str, Any]]:
    for examples in found:
        for change in examples:
            yield {
                "rule": change.rule,
                "exchange": change.exchange,
                "opened": utc(change.opened_ns),
                "agent": change.agent,
                "place": change.place,
                "excerpt": change.excerpt,
            }
