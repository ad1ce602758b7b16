"""What the policies of a stage mean for text that is still being written: how long it waits, and what looks at it.

A policy with a set for `reasoning` or `output` says in its metadata how long that surface waits for it:

    hold: none           it flows; a finding ends the answer where it is (the default)
    hold: tail(300)      its last 300 bytes wait, so that no byte of a match ever leaves
    hold: all            all of it waits for its end

and, with ``patterns``, for which patterns it is asked at all. A pattern that may be wider than the tail that waits for
it is refused when the policies are loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from policies.bundle import BundleError, PolicyEntry
from policies.model import TEXT_STAGES, Mode, Signal, Stage
from serving.patterns import Pattern, PatternSet, named_only
from serving.regex_shape import ShapeError, shape_of
from serving.stream_patterns import StreamPatterns, StreamScanner
from serving.whole_matches import Searched, WholeMatches
from serving.wire.masking import Surface

SIGNALS = "signals"
TEXT = "surface.text"
STAGE_OF: Mapping[Surface, Stage] = {"reasoning": Stage.REASONING, "text": Stage.OUTPUT}
"""The stage of each surface of an answer that is text."""


class HoldError(BundleError):
    """A policy that says that it holds what it cannot hold: which, and what is too wide."""


@dataclass(frozen=True)
class TextRule:
    """``hold`` is in UTF-8 bytes: 0 for none, None for all of the surface. ``holds``: a policy of the stage is
    enforced; only then may the surface be held, delayed or cut. ``scanner`` makes one scanner for one surface of one
    choice; it is None if no policy reads signals. ``at_end``: a policy reads more than signals, so it is asked once
    when the surface ends, with ``hold`` None before any byte leaves. ``text``: a policy reads the text itself.
    ``matches`` makes a scanner for a text of which so many bytes wait (None: all), in which matches may be masked."""

    hold: int | None
    holds: bool
    scanner: Callable[[], StreamScanner] | None
    at_end: bool
    text: bool
    matches: Callable[[int | None], WholeMatches] | None = None


def hold_of(entry: PolicyEntry, stage: Stage) -> int | None:
    """The bytes that ``entry`` lets wait at a text stage; None for all."""
    said = entry.holds.get(stage, "none")
    if said == "all":
        return None
    return 0 if said == "none" else int(said.removeprefix("tail(").removesuffix(")"))


def strictest(holds: Iterable[int | None]) -> int | None:
    """The longest wait of all."""
    longest = 0
    for hold in holds:
        if hold is None:
            return None
        longest = max(longest, hold)
    return longest


def wakes(entry: PolicyEntry, reads: Collection[str], signals: Sequence[Signal]) -> bool:
    """Whether a policy that reads ``reads`` can have something to say about these signals."""
    if set(reads) != {SIGNALS}:
        return True
    if not entry.patterns:
        return any(signal.set not in named_only() for signal in signals)
    return any(signal.set in entry.patterns or f"{signal.set}/{signal.id}" in entry.patterns for signal in signals)


def text_rule(
    stage: Stage, entries: Sequence[PolicyEntry], modes: Mapping[str, Mode], sets: Sequence[PatternSet]
) -> TextRule | None:
    """The rule of ``stage``; None if no policy in force has it. Raises :class:`HoldError` for a hold that is too short
    and :class:`serving.patterns.PatternError` for a pattern that no stream can be scanned for."""
    asked = [entry for entry in entries if stage in entry.stages and entry.name in modes]
    if not asked:
        return None
    for entry in asked:
        require_hold(entry, stage, sets)
    enforced = [entry for entry in asked if modes[entry.name] is Mode.ENFORCE]
    scanning = [entry for entry in asked if reads_field(entry.stages[stage], SIGNALS)]
    chosen = (tuple(sets), _selection(scanning, sets))
    return TextRule(
        hold=strictest(hold_of(entry, stage) for entry in enforced),
        holds=bool(enforced),
        scanner=_automaton(*chosen).scanner if scanning else None,
        matches=partial(_matches, *chosen) if scanning else None,
        at_end=any(set(entry.stages[stage]) != {SIGNALS} for entry in asked),
        text=any(reads_field(entry.stages[stage], TEXT) for entry in asked),
    )


def require_hold(entry: PolicyEntry, stage: Stage, sets: Sequence[PatternSet]) -> None:
    """Raises :class:`HoldError` if a policy's patterns are not known, or its tail is too short for what it reads."""
    for name in entry.patterns:
        if not any(name in (found.name, f"{found.name}/{p.id}") for found in sets for p in found.patterns):
            raise HoldError(f"policy {entry.name}: there is no pattern or pattern set {name}")
    hold = hold_of(entry, stage)
    if stage not in TEXT_STAGES or not hold:
        return
    reads = entry.stages[stage]
    where = f"policy {entry.name}: hold tail({hold}) at stage {stage.value}"
    if reads_field(reads, TEXT) or not reads_field(reads, SIGNALS):
        raise HoldError(f"{where} is for signals only; what else it reads is known at the end, so it needs hold: all")
    wide = {name: width for name, width in widths(entry, sets).items() if width is None or width > hold}
    if wide:
        listed = ", ".join(f"{name} ({'any width' if wide[name] is None else wide[name]})" for name in sorted(wide))
        raise HoldError(
            f"{where} is too short for what it is asked for: {listed} bytes. "
            f"Name narrower ones in `patterns`, or hold longer, or all"
        )


def widths(entry: PolicyEntry, sets: Sequence[PatternSet]) -> dict[str, int | None]:
    """The patterns that ``entry`` is asked for, ``set/id`` → greatest width in bytes. Raises :class:`HoldError`."""
    found: dict[str, int | None] = {}
    for patterns in sets:
        for pattern in patterns.patterns:
            name = f"{patterns.name}/{pattern.id}"
            named = patterns.name in entry.patterns or name in entry.patterns
            if named or (not entry.patterns and patterns.default):
                found[name] = _width(name, pattern)
    return found


def too_wide_to_mask(entry: PolicyEntry, sets: Sequence[PatternSet], hold: int) -> list[str]:
    """The patterns that ``entry`` is asked for whose whole matches may be wider than ``hold`` bytes."""
    asked = widths(entry, sets)
    return sorted(
        name
        for patterns in sets
        for pattern in patterns.patterns
        if (name := f"{patterns.name}/{pattern.id}") in asked and _wider(pattern, hold)
    )


def reads_field(reads: Iterable[str], field: str) -> bool:
    """Whether ``field``, a part of it or a whole that it is part of is among ``reads``."""
    return any(name in ("*", field) or name.startswith(f"{field}.") or field.startswith(f"{name}.") for name in reads)


def names_field(reads: Iterable[str], field: str) -> bool:
    """Whether ``field`` or a part of it is among ``reads``, and not just a whole that it is part of."""
    return any(name == field or name.startswith(f"{field}.") for name in reads)


def _width(name: str, pattern: Pattern) -> int | None:
    try:
        return pattern.max_width
    except ShapeError as error:
        raise HoldError(f"pattern {name} cannot be looked for in a stream: {error}") from error


def _selection(entries: Sequence[PolicyEntry], sets: Sequence[PatternSet]) -> frozenset[str] | None:
    """The sets and patterns that any of the policies is asked for; None for all."""
    default = [patterns.name for patterns in sets if patterns.default]
    names = frozenset(name for entry in entries for name in entry.patterns or default)
    return None if names >= {patterns.name for patterns in sets} else names


@lru_cache(maxsize=8)
def _automaton(sets: tuple[PatternSet, ...], names: frozenset[str] | None) -> StreamPatterns:
    if names is None:
        return StreamPatterns(sets)
    only = {
        patterns.name: frozenset(p.id for p in patterns.patterns if f"{patterns.name}/{p.id}" in names)
        for patterns in sets
        if patterns.name not in names
    }
    return StreamPatterns(sets, only)


def _matches(sets: tuple[PatternSet, ...], names: frozenset[str] | None, hold: int | None) -> WholeMatches:
    return WholeMatches(_automaton(sets, names).scanner(), _searched(sets, names, hold), hold)


@lru_cache(maxsize=16)
def _searched(sets: tuple[PatternSet, ...], names: frozenset[str] | None, hold: int | None) -> tuple[Searched, ...]:
    """The sets as :func:`_automaton` looks for them, in texts of which ``hold`` bytes are kept."""
    found: list[Searched] = []
    for patterns in sets:
        named = names is None or patterns.name in names
        wanted = [
            pattern
            for pattern in patterns.patterns
            if "text" in pattern.surfaces and (named or names is None or f"{patterns.name}/{pattern.id}" in names)
        ]
        without = {pattern.id for pattern in patterns.patterns} - {pattern.id for pattern in wanted}
        wide = [pattern.id for pattern in wanted if hold is not None and _wider(pattern, hold)]
        if wanted:
            found.append(Searched(patterns, frozenset(without), frozenset(wide)))
    return tuple(found)


def _wider(pattern: Pattern, hold: int) -> bool:
    """Whether a whole match may be wider than ``hold`` bytes, or waits for a word beside it."""
    shape = shape_of(pattern.regex, shortest=False)
    return shape.width is None or shape.width > hold or pattern.awaits(shape)
