"""The bytes of an export say what the SDK's own encoder says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as sdk_encode
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from tests.tracing.exchanges import refused, whole
from tracing.exchange import Exchange
from tracing.otlp import encode_spans
from tracing.records import AnyRecord
from tracing.spans import resource, spans_of

SOURCE = resource("one", "test")
SCOPE = InstrumentationScope("interlock", "1")


def read(body: bytes) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest.FromString(body)


@pytest.mark.parametrize("mlflow", [False, True])
@pytest.mark.parametrize("records", [whole("x1"), refused("x2")], ids=["whole", "refused"])
def test_the_spans_of_an_exchange_are_encoded_as_the_sdk_encodes_them(records: list[AnyRecord], mlflow: bool) -> None:
    exchange = Exchange(records[0].exchange)
    for record in records:
        exchange.add(record)
    spans = spans_of(exchange, SOURCE, mlflow=mlflow)

    assert spans
    assert read(encode_spans(spans)) == sdk_encode(spans)


_VALUES = st.one_of(
    st.text(max_size=300),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.lists(st.text(max_size=5), max_size=4),
)


@given(
    st.dictionaries(st.text(max_size=12), _VALUES, max_size=6),
    st.text(max_size=40),
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.sampled_from([SpanKind.INTERNAL, SpanKind.SERVER, SpanKind.CLIENT]),
    st.sampled_from([Status(StatusCode.UNSET), Status(StatusCode.OK), Status(StatusCode.ERROR, "broken")]),
    st.booleans(),
)
def test_any_span_is_encoded_as_the_sdk_encodes_it(
    attributes: dict[str, Any], name: str, trace: int, span: int, kind: SpanKind, status: Status, remote: bool
) -> None:
    flags = TraceFlags(TraceFlags.SAMPLED)
    made = [
        ReadableSpan(
            name=name,
            context=SpanContext(trace, span, False, flags),
            parent=SpanContext(trace, span, remote, flags) if with_parent else None,
            resource=Resource({"service.name": "interlock"}),
            attributes=attributes,
            kind=kind,
            status=status,
            start_time=1763600000000000000,
            end_time=1763600000000000000 + span % 10**9,
            instrumentation_scope=SCOPE,
        )
        for with_parent in (False, True)
    ]

    ours = read(encode_spans(made[:1]))

    assert ours == sdk_encode(made[:1])
    assert read(encode_spans(made[1:])) == sdk_encode(made[1:])


def test_a_long_batch_stays_whole() -> None:
    records = whole("x1")
    exchange = Exchange("x1")
    for record in records:
        exchange.add(record)
    spans = spans_of(exchange, SOURCE) * 300

    assert read(encode_spans(spans)) == sdk_encode(spans)
