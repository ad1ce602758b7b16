"""Starts the process that writes a chain of the journal (``tracing.writer``)."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

# What ``python -m tracing.writer`` does, but from the folder that this file is in.
START = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module("tracing.writer", run_name="__main__", alter_sys=True)
"""


class WriterProcess:
    """A writer that was started and waits for its order. It ends when its ``connection`` is closed."""

    def __init__(self) -> None:
        """Raises ``OSError`` if it cannot be started."""
        self.connection, its = socket.socketpair()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", START, str(Path(__file__).parent.parent), str(its.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
            )
        except OSError:
            self.connection.close()
            raise
        finally:
            its.close()

    def end(self) -> None:
        """For one that has got no order."""
        self.connection.close()
        self.process.wait()
