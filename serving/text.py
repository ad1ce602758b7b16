"""Text from the traffic, made safe to show to a person.

Tool names, excerpts and error texts come from a model or from whoever prompted it. On a terminal or in a log
line, a control character moves the cursor, a bidirectional override turns a sentence round, and an endless
name hides what follows. ``printable`` leaves none of these: one line, no character that is not seen, bounded.
"""

from __future__ import annotations


def printable(text: object, limit: int = 200) -> str:
    """``text`` as one line of at most ``limit`` characters, each of which can be seen.

    Characters of Unicode's categories "other" (control, format: bidi and zero-width marks, surrogates, private
    use, unassigned) and the line and paragraph separators become a space; runs of spaces become one. What is
    longer ends in ``…``.
    """
    whole = text if isinstance(text, str) else str(text)
    head = whole[: limit * 4 + 16]
    line = " ".join(head.split())
    if not line.isprintable():
        line = " ".join("".join(character if character.isprintable() else " " for character in line).split())
    if len(line) > limit or len(head) < len(whole):
        return line[: max(limit - 1, 0)].rstrip() + "…"
    return line
