"""The page about the library, `docs/library.md`: ``python -m policies.library_page docs/library.md``.

What each policy is, reads, needs and is tested with comes from the policies themselves; the words around it stand in
:data:`HEAD`. A test checks that the page is what this makes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from policies.authoring.examples import Example, examples_of
from policies.authoring.sources import LIBRARY, PolicySources, read_tree
from policies.bundle import Bundle, PolicyEntry
from policies.model import TEXT_STAGES, Stage
from policies.modes import default_mode

HEAD = """\
# The policy library

These policies come with Interlock, compiled into the bundle that it uses without settings. [Policies](policies.md) says
how they are put in force, changed and written. This page is made from their sources
(`python -m policies.library_page docs/library.md`).

Every policy judges a call whatever the type of its arguments is, and a call that was cut off by its text. Every one has
tests that pass on both engines (`interlock policy test`), and beside it, in `examples/`, exchanges that it stops and
exchanges that it lets by.

**Modes.** Two policies are enforced unless you say otherwise in `policies.modes`. The others are in shadow: they record
what they would have done and change nothing.

**Data.** What a policy knows beside the exchange is its data; `policies.data` lays yours over it. Objects are merged,
lists and values replaced. A policy that *needs* data is idle until one of those keys is set: it is not asked, in
whatever mode, reads nothing and costs nothing.

```yaml
policies:
  modes:
    interlock.egress: enforce
    interlock.models: warn
  data:
    interlock.egress:
      hosts: [example.com, "*.example.com", 10.0.0.0/8]
    interlock.models:
      models: [small-*]
      limits: {temperature: 1, n: 2, max_tokens: 4096}
```

Lists of tools, agents, models and hosts take `*` for any characters; upper and lower case are alike.

**What none of them can see.** A policy judges what passes through Interlock: what is asked, offered, thought, said and
called. What a tool does with its arguments, what a program that it starts does later, and what an agent keeps elsewhere
it does not see. These policies are a net, not a wall: what must not be possible at all belongs in a sandbox, a firewall
and in the rights of the credentials that tools hold.
"""

SEES = {
    Stage.REQUEST: "each request, before it goes to the model",
    Stage.REASONING: "the reasoning",
    Stage.TOOL_CALL: "each tool call",
    Stage.OUTPUT: "the answer's text",
    Stage.RESPONSE: "the whole answer, when it is over",
}
_LONGEST = 400


def page() -> str:
    """The whole page."""
    entries = sorted(Bundle.load().policies, key=lambda entry: entry.name)
    sources = read_tree(LIBRARY).policies
    parts = [HEAD, "## All of them\n", *_overview(entries), ""]
    for entry in entries:
        parts += _section(entry, sources[entry.name])
    return "\n".join(parts).rstrip() + "\n"


def _overview(entries: list[PolicyEntry]) -> Iterator[str]:
    yield "| policy | says | judges | unless set |"
    yield "|---|---|---|---|"
    for entry in entries:
        mode = default_mode(entry.name) + (", idle" if entry.needs else "")
        stages = ", ".join(f"`{stage.value}`" for stage in Stage if stage in entry.stages)
        short = entry.name.partition(".")[2]
        yield f"| [`{entry.name}`](#interlock{short}) | {entry.title} | {stages} | {mode} |"


def _section(entry: PolicyEntry, source: PolicySources) -> Iterator[str]:
    yield f"## {entry.name}\n"
    yield f"**{entry.title}.** {entry.description}\n"
    yield f"- Judges {' and '.join(SEES[stage] for stage in Stage if stage in entry.stages)}."
    severity = f" Severity {entry.severity.value}." if entry.severity else ""
    yield f"- Unless set: {default_mode(entry.name)}.{severity}"
    if entry.needs:
        yield f"- Idle without {' or '.join(f'`{key}`' for key in entry.needs)}."
    for stage in TEXT_STAGES:
        hold = entry.holds.get(stage)
        if hold is not None and hold != "none":
            yield f"- Enforced, it holds {SEES[stage]} (`hold: {hold}`)."
    yield f"- {', '.join(entry.tags)}\n"
    if source.data:
        yield "Its data:\n"
        yield "```json"
        yield _data(source.data)
        yield "```\n"
    examples = sorted(examples_of(source), key=lambda one: (not one[1].stops, one[0].name))
    yield "| example | | found |"
    yield "|---|---|---|"
    for path, example in examples:
        link = f"../policies/library/{entry.name.replace('.', '/')}/examples/{path.name}"
        yield f"| [{path.stem}]({link}) | {example.title} | {_found(example)} |"
    yield ""


def _found(example: Example) -> str:
    return ", ".join(f"`{name}`" for name in example.findings) or "nothing"


def _data(data: Mapping[str, Any]) -> str:
    """The data with one line for each key; what is long is cut."""
    lines = []
    for key, value in data.items():
        text = json.dumps(value, ensure_ascii=False)
        if len(text) > _LONGEST and isinstance(value, list):
            shown = list(value)
            while len(json.dumps(shown, ensure_ascii=False)) > _LONGEST:
                shown.pop()
            text = json.dumps([*shown, f"… {len(value) - len(shown)} more"], ensure_ascii=False)
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), "utf-8")
