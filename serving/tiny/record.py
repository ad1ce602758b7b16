"""Record what a real vLLM with the tiny model says: ``python -m serving.tiny.record URL OUT``.

Every turn of every script is asked for, streamed and whole, in both endings; the dangerous ones with
logprobs too. A plain socket does it, because HTTP clients hide the chunk framing and the times. An
answer that leaves its script is an error: such a recording is not kept.
"""

import argparse
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serving.tiny.answer import differences, message
from serving.tiny.harness import turns
from serving.tiny.recording import Recording
from serving.tiny.scripts import DISK, SANDWICH_FIRST, SANDWICH_LAST, SANDWICH_MIDDLE, SCRIPTS
from serving.tiny.shelf import CHAT, Key, key

STREAM: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
FORMS: dict[str, dict[str, Any]] = {"stream": STREAM, "whole": {}}
TOKEN_FORMS: dict[str, dict[str, Any]] = {
    "logprobs-stream": STREAM | {"logprobs": True},
    "logprobs-whole": {"logprobs": True},
}
DANGEROUS = (DISK, SANDWICH_FIRST, SANDWICH_MIDDLE, SANDWICH_LAST)

_READ_BYTES = 65536
_TIMEOUT_SECONDS = 60.0


def request(method: str, path: str, host: str, body: bytes = b"") -> bytes:
    """The bytes of a plain HTTP/1.1 request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode("ascii") + b"\r\n" + body


def exchange(host: str, port: int, sent: bytes) -> Recording:
    """Send a request and keep what comes until the answer is whole."""
    with socket.create_connection((host, port), timeout=_TIMEOUT_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin = time.monotonic()
        connection.sendall(sent)
        response, received = b"", []
        while not complete(response):
            data = connection.recv(_READ_BYTES)
            if not data:
                raise ConnectionError(f"the server hung up after {len(response)} bytes")
            received.append(((time.monotonic() - begin) * 1000, len(data)))
            response += data
    return Recording(sent, response, tuple(received))


def complete(response: bytes) -> bool:
    """Whether an HTTP answer with a length or in chunks has all its bytes."""
    head, blank, body = response.partition(b"\r\n\r\n")
    if not blank:
        return False
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return len(body) >= int(value)
    # No event ends so: each chunk's payload ends in line feeds, then comes one CRLF.
    return body.endswith(b"0\r\n\r\n")


def recordings(host: str, port: int) -> Iterator[tuple[str, Recording]]:
    """Every exchange once, by name. Raises ``ValueError`` for an answer that leaves its script."""
    authority = f"{host}:{port}"
    for name, path in (("health", "/health"), ("models", "/v1/models"), ("version", "/version")):
        yield name, exchange(host, port, request("GET", path, authority))
    seen: set[Key] = set()
    for script in SCRIPTS:
        forms = FORMS | TOKEN_FORMS if script in DANGEROUS else FORMS
        for name, turn, body in turns(script):
            for form, options in forms.items():
                asked = body | options
                if key(asked) in seen:
                    continue
                seen.add(key(asked))
                sent = request("POST", CHAT, authority, json.dumps(asked).encode())
                recording = exchange(host, port, sent)
                if wrong := differences(message(recording.content), turn):
                    raise ValueError(f"{name}-{form} left its script: {'; '.join(wrong)}")
                yield f"{name}-{form}", recording


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Record a vLLM that serves the tiny model.")
    parser.add_argument("url", help="base URL, for example http://127.0.0.1:8000")
    parser.add_argument("out", type=Path, help="folder for the recordings")
    options = parser.parse_args(argv)
    address = urlsplit(options.url)
    options.out.mkdir(parents=True, exist_ok=True)
    count = size = 0
    for name, recording in recordings(address.hostname or "127.0.0.1", address.port or 80):
        data = recording.dumps()
        (options.out / f"{name}.http").write_bytes(data)
        count, size = count + 1, size + len(data)
    print(f"{count} exchanges, {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
