"""The metrics of several workers as one text: sums that no worker's end takes anything from.

Each worker counts into files that its process maps (``prometheus_client``'s multiprocess mode, chosen by a variable
when the process starts), so a count is there once it is made, whatever happens to the worker. Whoever watches the
workers adds their files up at each scrape, and folds the files of a process that has ended into one.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest, mmap_dict, multiprocess
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from tracing.folders import private_folder
from tracing.metrics import Metrics

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Must be in a worker's environment, with the folder, before it imports anything of this room."""

_Values: Any = mmap_dict.MmapedDict  # the library has no types for these two
_Collector: Any = multiprocess.MultiProcessCollector
_ENDED = "ended"
"""Stands in a file's name where a living process has its pid."""


class WorkerMetrics:
    """The files in ``<state>/metrics``, which begin empty, and ``own``: the metrics of this process."""

    def __init__(self, state_dir: Path, own: Metrics) -> None:
        self.folder = state_dir / "metrics"
        shutil.rmtree(self.folder, ignore_errors=True)
        private_folder(state_dir, self.folder)
        self._registry = CollectorRegistry()
        self._registry.register(_Sums(self.folder, own))

    def ended(self, pid: int) -> None:
        """A worker is gone: keep what it counted, drop what was true only of a living one."""
        for path in sorted(self.folder.glob(f"*_{pid}.db")):
            kind = path.name.removesuffix(f"_{pid}.db")
            if not kind.startswith("gauge_live"):
                self._fold(path, self.folder / f"{kind}_{_ENDED}.db", add=kind != "gauge_mostrecent")
            path.unlink()

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)

    @staticmethod
    def _fold(path: Path, into: Path, *, add: bool) -> None:
        kept = _Values(str(into))
        for key, value, stamp, _ in _Values.read_all_values_from_file(str(path)):
            before, stamped = kept.read_value(key)
            if add:
                kept.write_value(key, before + value, 0.0)
            elif stamp >= stamped:
                kept.write_value(key, value, stamp)
        kept.close()


class _Sums(Collector):
    """Families of the workers and of this process under one name are one family, and their samples are added."""

    def __init__(self, folder: Path, own: Metrics) -> None:
        self._own = own
        self._workers = _Collector(None, path=str(folder))

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for family in (*self._own.families(), *self._workers.collect()):
            known = families.get(family.name)
            if known is None:
                known = families[family.name] = Metric(family.name, family.documentation, family.type)
            _add(known, family)
        return families.values()


def _add(known: Metric, family: Metric) -> None:
    places = {(one.name, tuple(sorted(one.labels.items()))): at for at, one in enumerate(known.samples)}
    for sample in family.samples:
        if sample.name.endswith("_created"):
            continue
        at = places.get((sample.name, tuple(sorted(sample.labels.items()))))
        if at is None:
            known.samples.append(sample)
        else:
            before = known.samples[at]
            known.samples[at] = Sample(before.name, before.labels, before.value + sample.value)
