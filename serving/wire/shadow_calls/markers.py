"""How tool calls are announced in the text of the model families that vLLM serves.

An *opener* says that a call follows. Case, white space in the tag, ``_`` or ``▁`` or nothing between its words and
``|`` or ``｜`` as bars make no difference here, because they make none to a lenient harness. All patterns are over
UTF-8 bytes, and none can match more than a bounded number of them.
"""

from __future__ import annotations

import re

_BAR = r"(?:\||\xef\xbd\x9c)"
_JOINT = r"(?:[_ -]|\xe2\x96\x81){0,2}"
_ATOMS = {"|": _BAR, "_": _JOINT, " ": r"\s{0,4}", "~": r"\s{1,4}"}

_TAGS = [
    "tool_call",
    "function_call",
    "tool_code",
    "start_function_call",
    "function =",
    "function~name",
    "functionname",
    "invoke~name",
    "longcat_tool_call",
    "dots_function_call",
    "minimax:tool_call",
    "minimax:invoke",
    "seed:tool_call",
    "ifm|tool_call",
    "antml:function_call",
    "antml:invoke",
    "atem:function_call",
    "atem:invoke",
    "steptml:invoke",
    "xai:function_call",
    "call>",
    "|tool_call",
    "|function_call",
    "|tools_prefix",
    "|python_tag",
    "|python_start",
    "|action_start",
    "|start_action",
    "|plamo:begin_tool",
    "|dsml| function_call",
    "|dsml| tool_call",
    "|dsml| calls",
    "|dsml| invoke~name",
]
_CODE_TAGS = ["tool_code", "|python_tag", "|python_start"]


def _atoms(words: str) -> list[str]:
    return [_ATOMS.get(sign, re.escape(sign)) for sign in words]


def _beginning(words: str) -> str:
    """Matches every beginning of what ``words`` matches."""
    pattern = ""
    for atom in reversed(_atoms(words)):
        pattern = f"(?:{atom}{pattern})?" if atom not in (_JOINT, _ATOMS[" "]) else f"{atom}{pattern}"
    return pattern


def _any(words: list[str]) -> str:
    return "|".join("".join(_atoms(one)) for one in words)


_FLAGS = re.IGNORECASE | re.DOTALL
_FENCE = r"`{3}\s{0,2}tool_(?:code|call)s?\b"
_HARMONY = r"=\s{0,2}functions\."
_LISTED = r"\[\s{0,2}tool_calls?\s{0,2}\]"

OPENER = re.compile(
    (
        rf"(?P<code><\s{{0,2}}(?:{_any(_CODE_TAGS)})|`{{3}}\s{{0,2}}tool_code\b)"
        rf"|(?P<tag><\s{{0,2}}(?:{_any(_TAGS)}))"
        rf"|(?P<mark>{_LISTED}|{_FENCE})|(?P<recipient>{_HARMONY})"
    ).encode("latin-1"),
    _FLAGS,
)
"""A whole opener. Of a ``tag`` or a ``code`` tag only the beginning: what follows up to ``>`` may say a name. Behind a
``recipient`` only a name and an object can stand."""

_PARTIAL = re.compile(
    (
        rf"(?:<\s{{0,2}}(?:{'|'.join(_beginning(one) for one in _TAGS)})"
        rf"|\[\s{{0,2}}{_beginning('tool_calls')}\s{{0,2}}"
        rf"|`{{1,3}}\s{{0,2}}{_beginning('tool_codes')}|`{{1,3}}\s{{0,2}}{_beginning('tool_calls')}"
        rf"|=\s{{0,2}}{_beginning('functions.')})\Z"
    ).encode("latin-1"),
    _FLAGS,
)
LONGEST_PARTIAL = 64
_FIRST = re.compile(rb"[<\[=]|(?<!`)`")

MAY_OPEN = re.compile(rb"[<\[=`]")
"""Without any of these no opener begins."""

TRIGGER = re.compile(r"[<\[`{=]")
"""No opener and no call without one begins in a text that has none of these."""


def partial_opener(data: bytearray, at: int) -> int | None:
    """Where, from ``at`` on, an opener begins that the end of ``data`` cuts off."""
    for first in _FIRST.finditer(data, max(at, len(data) - LONGEST_PARTIAL)):
        if _PARTIAL.match(data, first.start()):
            return first.start()
    return None


def reopens(data: bytearray, at: int) -> int | None:
    """Whether a call is announced again at ``at``, not by a tag: where the opener ends; the end of ``data`` if it cuts
    the opener off; None if there is none."""
    if bytes(data[at : at + 1]) not in (b"[", b"`", b"="):
        return None
    if opener := OPENER.match(data, at):
        return opener.end()
    return len(data) if _PARTIAL.match(data, at) else None


CLOSER = re.compile(
    (
        r"<\s{0,2}(?:/[^<>]{0,48}"
        rf"|{_BAR}?[^<>/]{{0,24}}(?:{_JOINT}end)(?:{_JOINT}[a-z]{{0,16}}){{0,2}}{_BAR}?"
        rf"|end_function_call|tool_call{_BAR}|turn{_BAR}"
        rf"|{_BAR}(?:call|return|eom|eot|eom_id|eot_id|end_action|im_end){_BAR})\s{{0,2}}>"
    ).encode("latin-1"),
    _FLAGS,
)
TAG = re.compile(rb"<[^<>{}]{1,200}>")
FUNCTION_TAG = re.compile(
    (
        rf"<\s{{0,2}}(?:[a-z]{{2,9}}:|{_BAR}\s?dsml\s?{_BAR}\s{{0,2}})?"
        rf"(?:function|invoke|tool{_JOINT}call)\s{{0,4}}(?:=|\s?name\s{{0,2}}=)\s{{0,2}}"
        r"[\"']?\s{0,2}([^\"'<>]{1,256}?)\s{0,2}[\"']?\s{0,2}(?:[a-z]+=[^<>]{0,64})?/?>"
    ).encode("latin-1"),
    _FLAGS,
)
FUNCTION_END = re.compile(
    rf"<\s{{0,2}}/\s{{0,2}}[^<>]{{0,24}}(?:function|invoke|tool{_JOINT}calls?|calls)[^<>]{{0,16}}>".encode("latin-1"),
    _FLAGS,
)
PARAMETER = re.compile(
    (
        rf"<\s{{0,2}}(?:[a-z]{{2,9}}:|{_BAR}\s?dsml\s?{_BAR}\s{{0,2}})?"
        r"param(?:eter)?\s{0,4}(?:=|\s?name\s{0,2}=)\s{0,2}[\"']?\s{0,2}([^\"'<>]{1,256}?)\s{0,2}[\"']?"
        r"(?:\s[^<>]{0,64})?>"
        rf"(.*?)(?:<\s{{0,2}}/[^<>]{{0,20}}param(?:eter)?\s{{0,2}}>|(?=<\s{{0,2}}(?:[a-z]+:)?param(?:eter)?[ =])|\Z)"
    ).encode("latin-1"),
    _FLAGS,
)
KEYED = re.compile(rb"<\s{0,2}(/?)[^<>/]{0,8}(arg_key|arg_value|arg_type)[^<>]{0,12}>", _FLAGS)

_NAME = rb"[A-Za-z_\x80-\xff][\w.\-\x80-\xff]{0,127}"
_WORDS = rb"(?:\s|\[CALL_ID\]\w{1,32}|\[ARGS\]|<[^<>{}]{1,40}>|json|code|commentary|analysis|`{3}(?:json)?)"

ITEM = re.compile(
    rb"(?P<skip>[\s,;\]]+|\[|`{3}(?:json|python|py|tool_calls?|tool_code)?(?=[\s{\[]))"
    rb"|(?P<json>\{)"
    rb"|(?P<named>(?:function\s{0,2}<[^<>{}]{1,40}>\s{0,2})?(?P<prefix>[A-Za-z_]\w{0,31}:)?(?P<name>" + _NAME + rb")"
    rb"(?::\d{1,4})?" + _WORDS + rb"{0,24}(?=\{))"
    rb"|(?P<keyed>(?P<keyed_name>" + _NAME + rb")\s{0,4}(?:<tool_sep[^<>]{0,12}>)?\s{0,4}(?=<[^<>/]{0,8}arg_key|</))"
    rb"|(?P<python>(?:[A-Za-z_]\w{0,63}\s{0,2}=\s{0,2})?(?P<called>[A-Za-z_][\w.]{0,127})\s{0,2}\()",
    _FLAGS,
)
"""What may stand in an opened block, one piece at a time, behind its tags."""

CODE = re.compile(
    rb"(?:import\s+\w|from\s+[\w.]+\s+import\b|(?:async\s+)?def\s+\w+\s*\(|for\s+[\w, ]+\sin\s+[\w(\[\"']|try\s*:"
    rb"|await\s+[\w.]+\(|(?:if|while|with)\s[^\n]{1,120}:[ \t]*\n|[#!%]\s?\w|[A-Za-z_][\w.\[\]'\"]*\s*=[^=])",
    re.DOTALL,
)
UNFINISHED_CODE = re.compile(
    rb"(?:(?:import|from|(?:async\s+)?def|for|try|await|if|while|with|async)\b[^\n]{0,120}(?:\n|\Z)"
    rb"|[#!%]\s?|[A-Za-z_][\w.\[\]'\"]{0,128}\s{0,4}=?)\Z",
)
"""How a line of a program begins."""

UNFINISHED_ITEM = re.compile(
    rb"(?:<[^<>{}]{0,200}"
    rb"|`{1,3}[a-z_]{0,12}"
    rb"|(?:function\s{0,2}<[^<>{}]{1,40}>\s{0,2})?(?:[A-Za-z_]\w{0,31}:)?(?:" + _NAME + rb")?(?::\d{0,4})?"
    rb"" + _WORDS + rb"{0,24}(?:<[^<>{}]{0,40}|\[\w{0,8}\]?\w{0,32}|`{1,3}(?:j|js|jso)?|[a-z]{1,10})?"
    rb"|[A-Za-z_]\w{0,63}\s{0,2}=\s{0,2}(?:[A-Za-z_][\w.]{0,127})?\s{0,2})\Z",
    _FLAGS,
)
LONGEST_HEAD = 1024
BEGINS_WITH_NAME = re.compile(
    rb"(?:function\s{0,2}<[^<>{}]{1,40}>\s{0,2})?(?:[A-Za-z_]\w{0,31}:)?(" + _NAME + rb")", _FLAGS
)

ONLY_KEY = re.compile(rb"\{\s*\"([^\"\\]{1,128})\"\s*:\s*\{", re.DOTALL)
"""The name in ``{"get_weather": {…``."""

LOOSE_NAME = re.compile(
    rb"[\"']?(?:name|tool|tool_name|function|function_name)[\"']?\s*[:=]\s*[\"']([^\"'\\<>{}\n]{1,128})[\"']",
    _FLAGS,
)
"""A call's name in what is no JSON, as a reader that repairs would find it."""
