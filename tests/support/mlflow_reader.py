"""What MLflow's own client reads back of a server's traces, in the environment that MLflow is installed in."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support import servers

_READ_BACK = """
import json, sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
client = mlflow.MlflowClient()
experiment = client.get_experiment_by_name(sys.argv[2])
found = []
if experiment is not None:
    for trace in client.search_traces(locations=[experiment.experiment_id], max_results=100):
        info = trace.info
        found.append({
            "id": info.trace_id,
            "state": str(info.state.value),
            "tags": dict(info.tags),
            "metadata": dict(info.trace_metadata),
            "usage": info.token_usage,
            "cost": info.cost,
            "request_preview": info.request_preview,
            "response_preview": info.response_preview,
            "spans": [
                {"name": span.name, "id": span.span_id, "parent": span.parent_id, "type": span.span_type,
                 "inputs": span.inputs, "outputs": span.outputs, "attributes": dict(span.attributes),
                 "status": str(span.status.status_code.value)}
                for span in trace.data.spans
            ],
        })
print(json.dumps(found, default=str))
"""


def traces(lane: Path, url: str, experiment: str) -> dict[str, dict[str, Any]]:
    """Every trace of the experiment as MLflow's client sees it, by trace id without its prefix."""
    read = subprocess.run(
        [lane / "bin" / "python", "-c", _READ_BACK, url, experiment],
        capture_output=True,
        text=True,
        check=True,
        env=servers.plain_environment(MLFLOW_DISABLE_TELEMETRY="true"),
    )
    return {trace["id"].removeprefix("tr-"): trace for trace in json.loads(read.stdout)}


def span(trace: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (one for one in trace["spans"] if one["name"] == name)
    return dict(found)


def parts(messages: list[Any], kind: str) -> list[Any]:
    return [part for message in messages for part in message["parts"] if part["type"] == kind]
