"""The C library's allocator, in a process of its own: what is set holds for a whole process."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import ctypes, threading
from serving.allocator import Holes, calm_allocator

assert calm_allocator()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def work():
    for _ in range(20):
        bytearray(1024 * 1024)
        kept.append([b"x" * (2000 + n) for n in range(500)])

kept = []
threads = [threading.Thread(target=work) for _ in range(4)]
before = resident()
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
full = resident()
kept.clear()
holes = Holes()
holes.left_by(1024)
assert not holes.give_back()
HOW
assert holes.give_back() and not holes.give_back()
print(full - before, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
@pytest.mark.parametrize("how", ["holes.left_by(80_000_000)", "pass  # nothing came since"], ids=["long", "quiet"])
def test_what_threads_have_freed_goes_back_to_the_system(how: str) -> None:
    program = _PROGRAM.replace("HOW", how)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    full, left = map(int, done.stdout.split())
    assert full > 70e6
    assert left < 10e6
