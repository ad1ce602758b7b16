"""Where an exporter's sinks remember how far they are: one small JSON file per sink, replaced whole."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import msgspec

from tracing.feed import Place
from tracing.folders import private_folder, replace_file

_log = logging.getLogger(__name__)


class Remembered(msgspec.Struct, frozen=True):
    """A sink's memory. ``alerts``: fingerprint → the state that was delivered last."""

    place: Place
    alerts: dict[str, str] = {}


def sink_name(kind: str, target: str) -> str:
    """A name for a sink that is the same in every run and shows nothing of its URL."""
    return f"{kind}-{hashlib.sha256(target.encode()).hexdigest()[:12]}"


class Places:
    """The files in ``<state>/exporter/``."""

    def __init__(self, state_dir: Path) -> None:
        self.folder = private_folder(state_dir, state_dir / "exporter")

    def load(self, sink: str) -> Remembered | None:
        """None if the sink is new, or its file is no good (it then begins as a new one)."""
        try:
            return msgspec.json.decode(self._path(sink).read_bytes(), type=Remembered)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            _log.error("the place of %s cannot be read (%s); it begins anew", sink, type(error).__name__)
            return None

    def save(self, sink: str, remembered: Remembered) -> None:
        """``OSError`` if it cannot be kept."""
        replace_file(self._path(sink), msgspec.json.encode(remembered))

    def note_undeliverable(self, sink: str, exchanges: list[str], reason: str) -> None:
        """Write down what a sink refused for good; the journal still has it."""
        line = msgspec.json.encode({"exchanges": exchanges, "reason": reason})
        path = self.folder / f"{sink}.undeliverable.jsonl"
        path.touch(0o600)
        with path.open("ab") as stream:
            stream.write(line + b"\n")

    def _path(self, sink: str) -> Path:
        return self.folder / f"{sink}.json"
