"""Prints the story: labels at the left, what is said beside them, as it comes.

Only ever appends, so that it reads the same on a terminal, without colours, and in a file. Colour never carries
a meaning of its own: the label says it too. Whatever it prints has passed the secret patterns and the ``masks``.
"""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Callable, Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from serving.text import printable

_GUTTER = 9
_WIDEST = 100
_LABEL_STYLES = {
    "user": "bold cyan",
    "thinks": "dim cyan",
    "says": "cyan",
    "calls": "cyan",
    "result": "dim cyan",
    "INTERLOCK": "bold red",
    "STOPPED": "bold red",
    "ALERT": "bold magenta",
    "checked": "bold green",
    "FAILED": "bold white on red",
}
_BODY_STYLES = {"thinks": "dim", "calls": "bold", "result": "dim", "withheld": "strike", "cost": "dim"}
_TALK = frozenset(("user", "thinks", "says", "calls", "result", "INTERLOCK"))
"""What the agent, its user and its tools say; all other labels are what the demo says about it."""


class Narrator:
    """``pace`` stretches every pause; 0: none. ``redact`` masks secrets, ``masks`` are further words to replace."""

    def __init__(
        self, console: Console, *, pace: float, redact: Callable[[str], str], masks: Mapping[str, str]
    ) -> None:
        self.console = console
        self.failed = 0
        self._pace = pace
        self._redact = redact
        self._masks = masks
        self._label = ""
        self._talks: bool | None = None
        self._column = 0
        self._word = ""

    @property
    def width(self) -> int:
        """Columns that the story uses."""
        return min(self.console.width, _WIDEST)

    @property
    def room(self) -> int:
        """Columns beside the labels."""
        return max(self.width - _GUTTER - 3, 20)

    async def pause(self, seconds: float) -> None:
        if self._pace:
            await asyncio.sleep(seconds * self._pace)

    # -- whole lines -------------------------------------------------------------------------------

    def title(self, text: str) -> None:
        self.end()
        self._print(Text(text, "bold"), "\n")

    def scene(self, number: int | None, title: str, about: str) -> None:
        """The heading of a scene and what it is about."""
        self.end()
        head = f" {title} " if number is None else f" {number}  {title} "
        self._print(Text("\n──", "dim"), "")
        self._print(Text(head, "bold"), "")
        self._print(Text("─" * max(self.width - 2 - cell_len(head), 2), "dim"), "\n")
        self.plain(about, style="italic")
        self.blank()
        self._talks = None

    def plain(self, text: str, *, indent: int = 4, style: str = "") -> None:
        """A paragraph without a label."""
        self.end()
        for line in textwrap.wrap(self._safe(text), self.width - indent, break_on_hyphens=False):
            self._print(Text(" " * indent + line, style), "\n")

    def command(self, text: str) -> None:
        self.end()
        self._print(Text("$ ", "dim"), "")
        self._print(Text(self._safe(text), "bold"), "\n")

    def blank(self) -> None:
        self.end()
        self._print(Text(""), "\n")

    def line(self, label: str, text: str) -> None:
        """One labelled paragraph."""
        self.end()
        self._group(label)
        body = _BODY_STYLES.get(label, "")
        lines = textwrap.wrap(self._safe(text), self.room, break_on_hyphens=False) or [""]
        for index, each in enumerate(lines):
            self._gutter(label if index == 0 else "")
            self._print(Text(each, body), "\n")

    def check(self, holds: bool, text: str) -> None:
        """A claim that was computed; one that does not hold is said to fail, and counted."""
        if not holds:
            self.failed += 1
        self.line("checked" if holds else "FAILED", text)

    def columns(self, label: str, cells: Sequence[str], widths: Sequence[int], *, style: str = "") -> None:
        """Cells beside one another, each wrapped in its own width; they stand where the line before stood."""
        self.end()
        wrapped = [
            textwrap.wrap(self._safe(cell), width, break_on_hyphens=False)
            for cell, width in zip(cells, widths, strict=True)
        ]
        for index in range(max(map(len, wrapped))):
            self._gutter(label if index == 0 else "")
            parts = [lines[index] if index < len(lines) else "" for lines in wrapped]
            row = "  ".join(
                part + " " * max(width - cell_len(part), 0) for part, width in zip(parts, widths, strict=True)
            )
            self._print(Text(row.rstrip(), style), "\n")

    # -- as it flows -------------------------------------------------------------------------------

    def flow(self, label: str, piece: str, *, anew: bool = False) -> None:
        """A piece of something that comes bit by bit; a new label, or ``anew``, begins a new line."""
        if label != self._label or anew:
            if not piece.strip():
                return
            self.end()
            self._group(label)
            self._label = label
            self._gutter(label)
            piece = piece.lstrip()
        for character in piece:
            if character.isspace():
                self._put_word()
            else:
                self._word += character

    def _put_word(self) -> None:
        word, self._word = self._safe(self._word), ""
        style = _BODY_STYLES.get(self._label, "")
        while word:
            space = 1 if self._column else 0
            if self._column and self._column + space + cell_len(word) > self.room:
                self._print(Text(""), "\n")
                self._gutter("")
                continue
            head, word = word[: self.room], word[self.room :]
            self._print(Text(" " * space + head, style), "")
            self._column += space + cell_len(head)

    def end(self) -> None:
        """End the line that flows."""
        if self._label:
            self._put_word()
            self._label = ""
            self._print(Text(""), "\n")
        self._column = 0

    def _group(self, label: str) -> None:
        """An empty line where talk turns into what is said about it, and back."""
        talks = label in _TALK
        if self._talks is not None and talks != self._talks:
            self._print(Text(""), "\n")
        self._talks = talks

    def _gutter(self, label: str) -> None:
        self._print(Text(f"{label:>{_GUTTER}}", _LABEL_STYLES.get(label, "")), "")
        self._print(Text("  "), "")
        self._column = 0

    def _safe(self, text: str) -> str:
        for word, mask in self._masks.items():
            text = text.replace(word, mask)
        return printable(self._redact(text), 2000)

    def _print(self, text: Text, end: str) -> None:
        self.console.print(text, end=end, soft_wrap=True)
