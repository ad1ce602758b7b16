"""One end of the connection between a worker and its parent.

What is sent goes to the socket at once, not at the end of a loop turn: what a worker tells its parent before it gives
the last byte to a client is there before anything that the client can cause by it. That order is what makes a run's
next request, on whichever worker, find what the run was given.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec

from serving.frames import BadFrame, Frames, frame

_log = logging.getLogger("interlock.workers")
_CHUNK = 256 * 1024
_ROUNDS = 16
_UNSENT_MOST = 256 * 1024 * 1024
_PATH_MOST = 100
"""Bytes of a socket's path that every system takes."""

Heard = Callable[[int, msgspec.Raw], None]


class Link:
    """``heard`` gets every frame, ``lost`` is called once when the connection ended, by whichever side. A frame that
    ``heard`` does not understand (``BadFrame``, ``msgspec.MsgspecError``) ends it. For one event loop."""

    def __init__(self, sock: socket.socket, heard: Heard, lost: Callable[[], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._heard = heard
        self._lost = lost
        self._frames = Frames()
        self._unsent = bytearray()
        self._later = bytearray()
        self._loop = asyncio.get_running_loop()
        self.closed = False
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, number: int, body: object) -> None:
        """Never waits; what the socket does not take goes as soon as it does. Nothing happens if it is closed."""
        if self.closed:
            return
        data = bytes(self._later) + frame(number, body)
        self._later.clear()
        self._send(data)

    def post(self, number: int, body: object) -> None:
        """Before whatever is sent next, at the latest at the end of this loop turn."""
        if not self._later:
            self._loop.call_soon(self._send_later)
        self._later += frame(number, body)

    def push(self, seconds: float) -> None:
        """Wait, and let the whole loop wait, until all is in the socket, but not longer than this. The other side is
        far behind if there is anything to wait for."""
        poll = select.poll()
        while self._unsent and not self.closed:
            poll.register(self._sock, select.POLLOUT)
            if not poll.poll(seconds * 1000):
                return
            self._writable()

    def close(self) -> None:
        if self.closed:
            return
        self._send_later()
        if self.closed:  # by that
            return
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        if self._unsent:
            self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._lost()

    def _send_later(self) -> None:
        if self._later and not self.closed:
            data = bytes(self._later)
            self._later.clear()
            self._send(data)

    def _send(self, data: bytes) -> None:
        if not self._unsent:
            try:
                data = data[self._sock.send(data) :]
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return
            if not data:
                return
            self._loop.add_writer(self._sock.fileno(), self._writable)
        self._unsent += data
        if len(self._unsent) > _UNSENT_MOST:
            self.close()

    def _readable(self) -> None:
        for _ in range(_ROUNDS):
            try:
                data = self._sock.recv(_CHUNK)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            try:
                for number, body in self._frames.feed(data):
                    self._heard(number, body)
                    if self.closed:
                        return
            except (BadFrame, msgspec.MsgspecError):
                self.close()
                return
            except Exception:  # the connection's edge: a fault of ours must not leave it half read
                _log.exception("a word of the other side could not be dealt with")
                self.close()
                return
            if len(data) < _CHUNK:
                return

    def _writable(self) -> None:
        try:
            del self._unsent[: self._sock.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not self._unsent:
            self._loop.remove_writer(self._sock.fileno())


def listen(path: Path) -> socket.socket:
    """A listening Unix socket that only its owner may connect to. ``OSError`` if it cannot be made."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _at(path, sock.bind)
        path.chmod(0o600)
        sock.listen(64)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def connect(path: Path) -> socket.socket:
    """Connect to :func:`listen`'s socket. Blocks; ``OSError`` if nobody listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _at(path, sock.connect)
    except BaseException:
        sock.close()
        raise
    return sock


def peer(sock: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the process at the other end, as the kernel says."""
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return pid, uid


def _at(path: Path, act: Callable[[str], None]) -> None:
    """``act`` on the path; one that is too long for a socket's address is reached by its folder's descriptor."""
    if len(os.fsencode(path)) <= _PATH_MOST:
        act(str(path))
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        act(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
