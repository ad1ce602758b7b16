"""What OPA's decision log says of the questions that Interlock asks: whose they are, and nothing of what agents say.

OPA takes no id of a decision from whoever asks, but logs the request headers that its configuration names; so each
question carries the exchange's id in ``EXCHANGE_HEADER``. What else is logged, the mask (``decision_log.rego``, package
``system.log``) takes down to ids, names of tools and findings.
"""

from __future__ import annotations

import json
from pathlib import Path

EXCHANGE_HEADER = "X-Interlock-Exchange"
MASK = Path(__file__).with_name("decision_log.rego")
ROOT = "system/log"

LOG_DECISIONS = (
    "decision_logs.console=true",
    f"decision_logs.request_context.http.headers[0]={EXCHANGE_HEADER}",
)
"""OPA's settings (``--set``) for a log of decisions among its own output."""


def write_mask(folder: Path) -> None:
    """The mask as a bundle of its own, for an OPA that somebody else runs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".manifest").write_text(json.dumps({"roots": [ROOT]}) + "\n", encoding="utf-8")
    (folder / MASK.name).write_text(MASK.read_text(encoding="utf-8"), encoding="utf-8")
