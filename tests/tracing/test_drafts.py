"""What becomes of a decision's draft: no secret stays in it, in the key of an argument either."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from serving.patterns import shipped_redactor
from tests.support.seek import found
from tracing.capture import Capture
from tracing.drafts import DecidedDraft, with_plain_pointers
from tracing.keys import RunKeys
from tracing.records import Decided

LINES = ("MIIEowIBAAKCAQEA7bq98xHKas1VOqg", "6YYZYn9Zhy/A4uoRgnatm/dj", "/Tdd8HyS5SUkC/nD8zRA9aS8Stqcbnr3")
KEY = "\n".join(["-----BEGIN RSA " + "PRIVATE KEY-----", *LINES, "-----END RSA PRIVATE KEY-----"])


@pytest.mark.parametrize("key", [KEY, KEY.replace("\n", "\\n")])
def test_a_pointer_that_is_a_secret_is_masked(tmp_path: Path, key: str) -> None:
    capture = Capture("redacted", shipped_redactor(), RunKeys(tmp_path).key, 64 * 1024)
    pointer = "/" + key.replace("~", "~0").replace("/", "~1")
    signal = {"set": "secrets", "id": "private_key", "path": pointer}
    draft = DecidedDraft("run", {"findings": [{"redactions": [{"path": pointer}]}]}, {"signals": [signal]})
    record = draft.fill(Decided(time_ns=1, exchange="x"), capture)
    assert isinstance(record, Decided)
    assert found(list(LINES), msgspec.json.encode(record)) == []
    assert record.altered == ["signals"]
    full = draft.fill(Decided(time_ns=1), Capture("full", shipped_redactor(), RunKeys(tmp_path).key, 64 * 1024))
    assert json.loads(msgspec.json.encode(full))["moment"]["signals"][0]["path"] == pointer


def test_other_pointers_stay_as_they_are() -> None:
    value = {"signals": [{"path": "/a~1b/0"}, {"path": ""}], "call": {"path": {"path": "/c~0d"}}}
    assert with_plain_pointers(value, shipped_redactor()) == value
