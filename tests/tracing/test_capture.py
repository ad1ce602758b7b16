"""Capture: a secret does not get into the record, however it is spelt, cut or nested."""

from __future__ import annotations

import gc
import hashlib
import json
import re
import stat
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracing.capture import Capture, Mode, _Memory
from tracing.keys import RunKeys

SECRET = "AKIAIOSFODNN7EXAMPLE"
PATTERN = re.compile(r"AKIA[0-9A-Z]{16}|password\W{1,4}\w{6,}|\b4\d{15}\b")


def redact(text: str) -> str:
    return PATTERN.sub("[redacted:test]", text)


def capture(mode: Mode = "redacted", limit: int = 64 * 1024) -> Capture:
    return Capture(mode, redact, lambda run: run.encode().ljust(32), limit)


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in text)


def shows(value: Any) -> bool:
    """Whether the secret is in a captured value, under any number of JSON decodings."""
    text = json.dumps(value, ensure_ascii=False)
    for _ in range(6):
        if SECRET in text:
            return True
        text = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text).replace('\\"', '"')
    return False


SPELLINGS = {
    "plain": SECRET,
    "in prose": f"my key is {SECRET}, keep it",
    "tool arguments": json.dumps({"cmd": f"export K={SECRET}"}),
    "escaped in tool arguments": f'{{"cmd": "{escaped(SECRET)}"}}',
    "one character escaped": '{{"cmd": "{}"}}'.format(SECRET.replace("I", "\\u0049", 1)),
    "arguments in arguments": json.dumps({"inner": f'{{"cmd": "{escaped(SECRET)}"}}'}),
    "three levels deep": json.dumps({"a": json.dumps({"b": json.dumps([escaped(SECRET)])})}),
    "cut-off arguments": f'{{"cmd": "echo {escaped(SECRET)}',
    "cut-off arguments in prose": f'he said {{"cmd": "echo {escaped(SECRET)}',
    "object key in arguments": f'{{"{escaped(SECRET)}": 1}}',
    "first of two equal keys": f'{{"cmd": "{escaped(SECRET)}", "cmd": "ls"}}',
    "JSON string": f'"{escaped(SECRET)}"',
    "hex escapes": "".join(f"\\x{ord(character):02x}" for character in SECRET),
}


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_a_secret_is_masked_in_every_spelling(text: str) -> None:
    shapes: list[Any] = [text, {"content": text}, [[text]], {text: 1}, {"a": [{"b": {"c": text}}]}]
    for shape in shapes:
        assert not shows(capture().value(shape, "r")), shape


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_a_secret_is_masked_in_a_denied_excerpt(text: str) -> None:
    denied = capture().denied(text, "r")
    assert denied.excerpt is not None
    assert not shows(denied.excerpt)
    assert SECRET[:6] not in denied.excerpt


def test_text_without_secrets_is_kept_to_the_letter() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": 'say "hi" \\n ünï 日本 🎉'}]},
        {
            "role": "assistant",
            "tool_calls": [{"function": {"name": "f", "arguments": '{ "a" : [1, 2.5, true, null] }'}}],
        },
    ]
    assert capture().messages(messages, "r") == (messages, 0)
    assert capture("full").messages(messages, "r") == (messages, 0)


def test_arguments_with_a_secret_stay_json_with_the_rest_of_their_values() -> None:
    captured = capture().text(f'{{"cmd": "echo {escaped(SECRET)}", "n": [1, {{"deep": "kept"}}]}}', "r")
    assert captured is not None
    assert json.loads(captured) == {"cmd": "echo [redacted:test]", "n": [1, {"deep": "kept"}]}


def test_a_value_that_only_its_key_gives_away_is_masked() -> None:
    assert capture().value({"password": "hunter22"}, "r") == {"password": "[redacted]"}
    assert capture().value({"name": "hunter22"}, "r") == {"name": "hunter22"}


def test_a_number_is_scanned_as_the_digits_that_it_is() -> None:
    assert capture().value([4111111111111111, 42], "r") == ["[redacted:test]", 42]


@given(st.integers(0, 300), st.integers(1, 200), st.integers(0, 70_000))
def test_truncation_never_shows_a_part_of_a_secret(before: int, limit: int, after: int) -> None:
    text = "x " * before + SECRET + " y" * after
    captured = capture(limit=limit).text(text, "r")
    assert captured is not None
    assert "AKIAI" not in captured
    assert len(captured) <= limit + 1


@given(st.integers(-40, 40), st.integers(0, 3))
def test_a_secret_at_the_end_of_what_is_scanned_is_not_shown_even_if_much_before_it_was_masked(
    shift: int, masks: int
) -> None:
    """Masking shortens the text, so the end of the scanned window may come within the limit."""
    limit, margin = 1000, 64 * 1024
    head = "4111111111111111 " * ((limit + margin) // 17)
    text = head[: limit + margin - 10 + shift - 200 * masks] + " " + SECRET + " z" * 100_000
    captured = capture(limit=limit).text(text, "r")
    assert captured is not None
    assert "AKIA" not in captured


def test_of_a_long_conversation_the_newest_messages_are_kept() -> None:
    messages = [{"role": "user", "content": str(number) * 100} for number in range(10)]
    kept, left_out = capture(limit=350).messages(messages, "r")
    assert left_out == 10 - len(kept)
    assert kept[-1] == messages[-1]
    assert 2 <= len(kept) <= 4


def test_hashes_tell_equal_texts_of_one_run_and_nothing_else() -> None:
    message = {"role": "user", "content": "hello", "n": 7}
    first, second = capture("hashes").value(message, "r"), capture("hashes").value(message, "other")
    assert first["role"] == "user"
    assert first["content"].startswith("hmac:")
    assert "hello" not in json.dumps(first)
    assert 7 not in first.values()
    assert first == capture("hashes").value(message, "r")
    assert first["content"] != second["content"]


def test_object_keys_that_are_not_the_wires_own_are_hashed_too() -> None:
    assert SECRET not in json.dumps(capture("hashes").value({SECRET: {"customer": 1}}, "r"))
    assert "customer" not in json.dumps(capture("hashes").value({SECRET: {"customer": 1}}, "r"))


def test_none_keeps_nothing() -> None:
    nothing = capture("none")
    assert nothing.value({"a": "b"}, "r") is None
    assert nothing.text("a", "r") is None
    assert nothing.messages(["a", "b"], "r") == ([], 2)
    assert nothing.items(["a"], "r") == []
    assert nothing.denied("a", "r").commitment is None


def test_the_commitment_to_denied_content_is_one_to_the_whole_text_under_the_runs_key() -> None:
    text = "rm -rf / " * 10_000
    denied = capture().denied(text, "r")
    assert denied == capture().denied(text, "r")
    assert denied.commitment != capture().denied(text, "s").commitment
    assert denied.commitment != capture().denied(text + " ", "r").commitment
    assert len(denied.excerpt or "") <= 121


def test_an_excerpt_shows_the_shape_and_not_the_words() -> None:
    assert capture().denied('{"cmd": "rm -rf /home/someone"}', "r").excerpt == '{"cm*": "rm -rf /ho**/so*****"}'


def test_values_that_nest_without_end_are_cut() -> None:
    value: Any = "core"
    for _ in range(200):
        value = [value]
    assert "[too deep]" in json.dumps(capture().value(value, "r"))


def test_lone_surrogates_become_characters_that_can_be_written() -> None:
    for mode in ("full", "redacted"):
        captured = capture(mode).value({"content": "a\ud800b", "\udfff": 1}, "r")
        json.dumps(captured, ensure_ascii=False).encode()


def test_a_runs_key_is_made_once_kept_private_and_shared(tmp_path: Path) -> None:
    keys = RunKeys(tmp_path)
    key = keys.key("run/../1")
    assert len(key) == 32
    assert keys.key("run/../1") == key
    assert RunKeys(tmp_path).key("run/../1") == key
    assert keys.key("other") != key
    path = keys.path("run/../1")
    assert path.is_relative_to(tmp_path / "keys")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry for entry in path.parent.iterdir() if entry != path] == []
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (path.parent, path.parent.parent)} == {0o700}


def test_what_comes_again_with_every_request_is_scanned_once() -> None:
    scanned: list[str] = []

    def counted(text: str) -> str:
        scanned.append(text)
        return redact(text)

    many = Capture("redacted", counted, lambda run: b"k" * 32)
    tools = [{"name": f"tool{number}", "description": f"uses {SECRET}"} for number in range(5)]
    first = many.items(tools, "r")
    before = len(scanned)
    assert many.items(tools, "other") == first
    assert len(scanned) == before
    assert not shows(first)


def test_a_value_without_secrets_takes_one_scan() -> None:
    scanned: list[str] = []

    def counted(text: str) -> str:
        scanned.append(text)
        return text

    value = {"a": [{"b": "c", "n": 4}, '{"d": "\\u0065"}'], "e": None}
    assert Capture("redacted", counted, lambda run: b"k" * 32).value(value, "r") == value
    assert len(scanned) == 1
    assert SECRET not in scanned[0]


def test_hashes_of_one_run_are_not_given_to_another() -> None:
    hashing = capture("hashes")
    assert hashing.items(["hello"], "r") != hashing.items(["hello"], "s")


@pytest.mark.parametrize("words", [1, 60])
def test_memory_of_what_was_captured_is_bounded(words: int) -> None:
    """In bytes that it really takes, whether there are many small things in it or a few large ones."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        memory = _Memory(room=1_000_000)
        for number in range(5000):
            value = {"role": "user", "parts": [{"text": f"{number} {word}"} for word in range(words)]}
            memory.put(hashlib.blake2b(b"%d" % number, digest_size=16).digest(), value, 10 * words)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 600_000 < taken < 1_200_000
    names = [hashlib.blake2b(b"%d" % number, digest_size=16).digest() for number in range(5000)]
    known = [number for number, name in enumerate(names) if memory.get(name) is not None]
    assert known == list(range(5000 - len(known), 5000))
