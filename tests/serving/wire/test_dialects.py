"""The endpoint table and the dialects agree."""

from typing import Any

import pytest

from serving.endpoints import TABLE, EndpointClass
from serving.wire.dialect import Coerced, UpstreamRefuses
from serving.wire.dialects import BY_BODY, DIALECTS, dialect_of


def test_every_judged_endpoint_has_a_dialect_and_no_other_has() -> None:
    judged = {name for name, methods in TABLE.items() if EndpointClass.JUDGED in methods.values()}
    assert DIALECTS.keys() | BY_BODY == judged


@pytest.mark.parametrize(
    ("body", "api"),
    [({"messages": []}, "chat"), ({"prompt": "x"}, "completions"), ({"prompt_embeds": "x"}, "completions")],
)
def test_invocations_speak_what_their_body_says(body: dict[str, Any], api: str) -> None:
    dialect = dialect_of("/invocations", body)
    assert not isinstance(dialect, Coerced | UpstreamRefuses)
    assert dialect.api == api


def test_a_body_that_fits_two_apis_is_refused() -> None:
    assert isinstance(dialect_of("/invocations", {"messages": [], "prompt": "x"}), Coerced)
    assert isinstance(dialect_of("/invocations", {"input": "x"}), UpstreamRefuses)
