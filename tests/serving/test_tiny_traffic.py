"""The recordings are of every scripted turn, as vLLM said it, and are read back byte for byte."""

import json
from pathlib import Path

import pytest

from serving.tiny.answer import differences, message
from serving.tiny.dialogue import Script
from serving.tiny.harness import turns
from serving.tiny.record import DANGEROUS, FORMS, TOKEN_FORMS, complete
from serving.tiny.recording import Recording, RecordingError
from serving.tiny.scripts import CANARY, SCRIPTS
from serving.tiny.shelf import TRAFFIC, Shelf

FILES = sorted(TRAFFIC.glob("*.http"))
MEGABYTE = 1_000_000

every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.id)


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    return Shelf.of()


def test_the_recordings_are_small_enough_to_keep_with_the_code() -> None:
    assert 0 < sum(path.stat().st_size for path in FILES) < 3 * MEGABYTE


@every_script
def test_every_turn_is_recorded_as_the_script_has_it(script: Script, shelf: Shelf) -> None:
    forms = FORMS | TOKEN_FORMS if script in DANGEROUS else FORMS
    for name, turn, body in turns(script):
        for form, options in forms.items():
            found = shelf.chat(body | options)
            assert found is not None, f"{name}-{form}"
            assert differences(message(found[1].content), turn) == []


@pytest.mark.parametrize("script", DANGEROUS, ids=lambda script: script.id)
def test_the_canary_is_in_the_recorded_arguments_and_nowhere_else(script: Script, shelf: Shelf) -> None:
    _, _, body = next(turns(script))
    found = shelf.chat(body | FORMS["stream"])
    assert found is not None
    said = message(found[1].content)
    assert CANARY in json.dumps(said["tool_calls"])
    assert CANARY not in said["content"] + said["reasoning"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recording_is_read_and_written_without_a_change(path: Path) -> None:
    data = path.read_bytes()
    recording = Recording.loads(data)
    assert recording.dumps() == data
    assert b"".join(piece for _, piece in recording.pieces) == recording.response
    assert complete(recording.response)
    assert not any(place in data for place in (b'"/tmp', b'"/home', b'"/root', b'"/work'))


def test_a_stream_has_one_piece_for_each_event_and_one_for_head_and_end(shelf: Shelf) -> None:
    _, _, body = next(turns(SCRIPTS[0]))
    found = shelf.chat(body | FORMS["stream"])
    assert found is not None
    head, *chunks, end = [piece for _, piece in found[1].pieces]
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert end == b"0\r\n\r\n"
    assert all(chunk.count(b"data: ") == 1 for chunk in chunks)
    times = [ms for ms, _ in found[1].pieces]
    assert times == sorted(times)


@pytest.mark.parametrize("damage", [(b"\r\n", b"\n"), (b"<<<", b">>>"), (b"### recv", b"###")])
def test_a_damaged_file_is_refused(damage: tuple[bytes, bytes]) -> None:
    data = FILES[0].read_bytes().replace(*damage)
    with pytest.raises(RecordingError):
        Recording.loads(data)
