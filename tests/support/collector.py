"""A small OTLP/HTTP collector for vLLM's own spans, which can hand them on, as a collector before MLflow does.

vLLM is started once for all tests and is told at its start where its spans go; who wants them says so later. It
runs in a thread, so that it serves tests with and without an event loop.
"""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """``taken``: the bodies that were taken. ``hand_on`` sends each later one to another server too."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}/v1/traces"
        self.taken: list[bytes] = []
        self._target: tuple[str, Mapping[str, str]] | None = None

    def hand_on(self, url: str | None, headers: Mapping[str, str] | None = None) -> None:
        """To ``url`` with ``headers``; None: to nobody."""
        self._target = None if url is None else (url, headers or {})

    def spans(self, trace_id: str) -> list[Any]:
        """The spans of one trace that arrived so far (protobuf)."""
        return [
            span
            for body in list(self.taken)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if span.trace_id.hex() == trace_id
        ]

    def take(self, body: bytes, content_type: str) -> int:
        """The status that the sender gets."""
        if self._target is not None:
            url, headers = self._target
            request = urllib.request.Request(url, body, {"Content-Type": content_type, **headers})
            try:
                with urllib.request.urlopen(request, timeout=60):
                    pass
            except urllib.error.HTTPError as error:
                return error.code
            except OSError:
                return 503
        self.taken.append(body)
        return 200


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    """A collector on loopback while the block lasts; ``port`` 0: a free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(collector.take(body, self.headers["Content-Type"]))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    collector = Collector(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
