"""The endpoint table and the dialects agree."""

from serving.endpoints import TABLE, EndpointClass
from serving.wire.dialects import DIALECTS


def test_every_judged_endpoint_has_a_dialect_and_no_other_has() -> None:
    judged = {name for name, methods in TABLE.items() if EndpointClass.JUDGED in methods.values()}
    assert set(DIALECTS) == judged
