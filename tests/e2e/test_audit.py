"""``interlock audit verify`` on the record of a real run: whole as it was written, and after each kind of tampering.

The record is made by ``interlock serve`` in two starts, with segments so small that there are several of each.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from proxy.cli import main
from tests.support.chat import Call, Say, stream, whole
from tests.support.lanes import ROOT
from tests.support.raw import scripted, send
from tests.support.served import COMMAND, served
from tests.support.servers import plain_environment
from tests.support.serving import answering, ask, by_request, post, streaming
from tests.support.wire import parse
from tracing.segments import segments

SAY = Say(
    text="I will see to it.",
    calls=(Call("run_shell", '{"command": "rm -rf /"}'), Call("get_weather", '{"city": "Oslo"}')),
)
Lines = list[bytes]
Verify = Callable[..., tuple[int, str]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def record(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """The state folder of an Interlock that ran twice and has ended."""
    folder = tmp_path_factory.mktemp("audit")
    script = by_request(lambda body: streaming(stream(SAY)) if body.get("stream") else answering(whole(SAY)))
    async with scripted(script) as upstream:
        for start in range(2):
            async with served(upstream.url, folder, tracing={"segment_bytes": 6000}) as interlock:
                for number in range(6):
                    body = ask(stream=bool(number % 2), messages=[{"role": "user", "content": f"Go {start} {number}"}])
                    assert parse(await send(interlock.port, post(body))).start == "HTTP/1.1 200 OK"
    yield folder / "state"


@pytest.fixture
def copy(record: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(record, tmp_path / "state"))


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    """The command on a state folder: exit status and output."""

    def run(state: Path, *arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        status = main(["audit", "verify", "--state-dir", str(state), *arguments])
        said = capsys.readouterr()
        assert said.err == ""
        return status, said.out

    return run


def files(state: Path) -> list[Path]:
    (chain,) = (state / "journal").glob("*/w*")
    found = segments(chain)
    assert len(found) >= 6
    return found


def rewrite(file: Path, change: Callable[[Lines], Lines]) -> None:
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))


def test_the_record_as_it_was_written_is_whole_and_its_limits_are_told(record: Path) -> None:
    command = [*COMMAND, "audit", "verify", "--state-dir", str(record)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=plain_environment(), check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Every record is as it was written, in its place." in done.stdout
    assert "FAULT" not in done.stdout
    assert "Removal of the newest records" in done.stdout and "write a whole chain anew" in done.stdout
    assert "not that it was true" in done.stdout
    assert "of 2 epochs" in done.stdout


def test_a_program_reads_the_same_as_json(record: Path, verify: Verify) -> None:
    status, said = verify(record, "--json")
    report = json.loads(said)
    assert status == 0 and report["faults"] == [] and len(report["unproven"]) == 3
    assert report["chains"][0]["epochs"] == 2


def test_one_changed_byte_is_found_wherever_it_is(copy: Path, verify: Verify) -> None:
    chance = random.Random(3)
    for file in chance.sample(files(copy), 4):
        before = file.read_bytes()
        for at in chance.sample([n for n, byte in enumerate(before) if byte != 0x0A], 4):
            changed = bytearray(before)
            changed[at] ^= 1
            if changed[at] == 0x0A:
                changed[at] ^= 3
            file.write_bytes(changed)
            line = before[:at].count(b"\n") + 1
            status, said = verify(copy)
            assert status == 1, (file, at)
            assert f"FAULT {file}:{line} " in said, (file, at, said)
            assert "NOT whole" in said
        file.write_bytes(before)
    assert verify(copy)[0] == 0


def test_a_removed_record_is_found_but_for_the_newest(copy: Path, verify: Verify) -> None:
    places = [(file, index) for file in files(copy) for index in range(len(file.read_bytes().splitlines()))][:-1]
    for file, index in (places[0], places[-1], *random.Random(5).sample(places, 8)):
        before = file.read_bytes()
        gone = before.splitlines(keepends=True)[index]
        rewrite(file, lambda lines, gone=gone: [line for line in lines if line != gone])
        status, said = verify(copy)
        assert status == 1
        assert f"record {json.loads(gone)['seq']} was removed" in said
        file.write_bytes(before)


def test_a_removed_segment_is_found_but_for_the_newest(copy: Path, verify: Verify) -> None:
    found = files(copy)
    for file in (found[0], found[len(found) // 2]):
        before = file.read_bytes()
        seqs = [json.loads(line)["seq"] for line in before.splitlines()]
        file.unlink()
        status, said = verify(copy)
        assert status == 1
        which = f"records {seqs[0]} to {seqs[-1]} were" if len(seqs) > 1 else f"record {seqs[0]} was"
        assert f"{which} removed" in said
        file.write_bytes(before)


def test_swapped_records_are_found_side_by_side_and_far_apart(copy: Path, verify: Verify) -> None:
    first, other = files(copy)[1], files(copy)[-2]
    kept = {file: file.read_bytes() for file in (first, other)}
    rewrite(first, lambda lines: [lines[1], lines[0], *lines[2:]])
    status, said = verify(copy)
    assert status == 1 and "out of place: records were swapped" in said and f"FAULT {first}:" in said
    first.write_bytes(kept[first])
    here, there = kept[first].splitlines(keepends=True)[0], kept[other].splitlines(keepends=True)[-1]
    rewrite(first, lambda lines: [there, *lines[1:]])
    rewrite(other, lambda lines: [*lines[:-1], here])
    status, said = verify(copy)
    assert status == 1 and f"FAULT {first}:" in said and f"FAULT {other}:" in said


def test_two_segments_that_changed_names_are_found(copy: Path, verify: Verify) -> None:
    first, other = files(copy)[1], files(copy)[2]
    contents = first.read_bytes(), other.read_bytes()
    first.write_bytes(contents[1])
    other.write_bytes(contents[0])
    assert verify(copy)[0] == 1


def test_the_newest_record_can_be_removed_unseen_and_a_noted_head_shows_it(copy: Path, verify: Verify) -> None:
    _, said = verify(copy)
    head = next(line.split()[1] for line in said.splitlines() if line.strip().startswith("head "))
    assert verify(copy, "--head", head)[0] == 0
    rewrite(files(copy)[-1], lambda lines: lines[:-1])
    status, said = verify(copy)
    assert status == 0
    assert "Removal of the newest records of a chain, or of a whole chain, does not show" in said
    status, said = verify(copy, "--head", head)
    assert status == 1 and "FAULT" in said
