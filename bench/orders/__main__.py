"""Fit the weights of ``policies/facts/orders.yaml`` to the sentences of ``texts.yaml``.

    python -m bench.orders            # prints what is found, at the weights as they are
    python -m bench.orders fit        # fits the weights and writes them

The expressions and words are written by hand; only their weights are fitted: logistic regression over what each
sentence has, drawn towards the weights written by hand (``PRIOR``), so that a feature that the sentences say little
about keeps its own. One sentence in three is held out. Deterministic: no chance in it.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from policies.facts.orders import GIVES_ORDERS, Detector

TEXTS = Path(__file__).with_name("texts.yaml")
WEIGHTS = Path(__file__).parents[2] / "policies" / "orders.yaml"
PRIOR = 40.0
"""How strongly a weight is drawn to where it was, against one example."""

FALSE_ALARMS = 1.5
"""How much worse it is to find an order where there is none."""

ROUNDS = 100
STEP = 0.5

Row = tuple[tuple[str, ...], bool, bool]
"""What a sentence has, whether it is an order, whether it is held out."""


def sentences() -> list[tuple[str, bool]]:
    document: dict[str, Any] = yaml.safe_load(TEXTS.read_text("utf-8"))
    found: list[tuple[str, bool]] = []
    for name, listed, is_order in (("orders", "goals", True), ("data", "polite", False)):
        part = document[name]
        frames = part["frames"]
        for nth, phrase in enumerate(part[listed]):
            for turn in range(4):
                text = frames[(nth + turn * 4) % len(frames)].format(phrase)
                found.append((text[0].upper() + text[1:], is_order))
        found += ((text, is_order) for text in part["texts"])
    return found


def carriers() -> list[str]:
    listed: list[str] = yaml.safe_load(TEXTS.read_text("utf-8"))["carriers"]
    return listed


def placed(carrier: str, text: str) -> str:
    if carrier.startswith('{"'):
        text = text.replace('"', '\\"')
    return carrier.replace("{}", text)


def rows(detector: Detector) -> list[tuple[str, str, list[tuple[str, ...]], bool, bool]]:
    """Per sentence and carrier: what each part of it that was looked at has."""
    made = []
    for nth, (text, is_order) in enumerate(sentences()):
        for carrier in carriers():
            whole = placed(carrier, text)
            without = {sentence for sentence, _, _ in detector.explain(placed(carrier, "-"))}
            parts = [names for sentence, _, names in detector.explain(whole) if sentence not in without]
            made.append((text, carrier, parts, is_order, nth % 3 == 0))
    return made


def fitted(examples: list[Row], weights: dict[str, float]) -> dict[str, float]:
    """The weights that fit best, near those given. Adagrad over all examples."""
    at = dict(weights)
    squares: dict[str, float] = defaultdict(lambda: 1e-6)
    for _ in range(ROUNDS):
        slope: dict[str, float] = {name: PRIOR * (at[name] - weights[name]) for name in at}
        slope["bias"] *= 0.1
        for names, is_order, _ in examples:
            odds = at["bias"] + sum(at[name] for name in names)
            p = 1 / (1 + math.exp(-max(-30.0, min(30.0, odds))))
            error = (p - 1) if is_order else p * FALSE_ALARMS
            slope["bias"] += error
            for name in names:
                slope[name] += error
        for name, value in slope.items():
            squares[name] += value * value
            at[name] -= STEP * value / math.sqrt(squares[name])
    return at


def report(detector: Detector, show: bool) -> None:
    counts: dict[tuple[bool, bool], list[int]] = defaultdict(lambda: [0, 0])
    for nth, (text, is_order) in enumerate(sentences()):
        hits = [bool(detector.passages(placed(carrier, text))) for carrier in carriers()]
        count = counts[(is_order, nth % 3 == 0)]
        count[0] += sum(hits)
        count[1] += len(hits)
        if show and (sum(hits) > 1 if not is_order else sum(hits) < len(hits) - 1):
            print(f"  {'missed' if is_order else 'false '} {sum(hits)}/{len(hits)} {text}")
    for (is_order, held_out), (hit, total) in sorted(counts.items()):
        what = ("orders" if is_order else "data") + (", held out" if held_out else ", fitted")
        print(f"{what:20} {hit:5}/{total:5} {hit / total:6.1%} at {GIVES_ORDERS}")


def written(weights: dict[str, float]) -> str:
    """The file with its weights replaced."""
    lines = WEIGHTS.read_text("utf-8").split("\n")
    name = section = ""
    for nth, line in enumerate(lines):
        if line and not line[0].isspace() and line.endswith(":"):
            section = line[:-1]
        if line.startswith("bias:"):
            lines[nth] = f"bias: {weights['bias']:.2f}"
        elif section == "features" and line.startswith("  - id: "):
            name = line[8:]
        elif section == "features" and line.startswith("    weight:"):
            lines[nth] = f"    weight: {weights[name]:.2f}"
        elif section == "heads" and (match := re.match(r"  (\w+): (.*weight: )-?[\d.]+(.*)", line)):
            lines[nth] = f"  {match[1]}: {match[2]}{weights[match[1]]:.2f}{match[3]}"
        elif section == "context" and (match := re.match(r"  (\w+): -?[\d.]+(.*)", line)):
            lines[nth] = f"  {match[1]}: {weights[match[1]]:.2f}{match[2]}"
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.orders", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["show", "fit"], default="show")
    parser.add_argument("--errors", action="store_true", help="print the sentences that are judged wrongly")
    options = parser.parse_args()
    detector = Detector()
    if options.what == "fit":
        examples: list[Row] = []
        weights = detector.weights()
        for _, _, parts, is_order, held_out in rows(detector):
            if held_out or not parts:
                continue
            best = max(parts, key=lambda names: sum(weights[name] for name in names))
            for names in [best] if is_order else parts:
                examples.append((names, is_order, held_out))
        WEIGHTS.write_text(written(fitted(examples, weights)), "utf-8")
        detector = Detector()
    report(detector, options.errors)


if __name__ == "__main__":
    main()
