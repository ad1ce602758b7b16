"""The data port that several workers share.

Each worker listens for itself (``SO_REUSEPORT``), and the kernel gives each new connection to one of them. What shares
a port may share it with a stranger of the same user: so the port is tried alone first, and then kept by a socket that
never listens, which is also how a port of the kernel's choice stays the same for every worker.
"""

from __future__ import annotations

import socket
from collections.abc import Callable


def reserve(host: str, port: int, keep: Callable[[socket.socket], object]) -> int:
    """Keep a port for the workers; gives its number. ``keep`` gets the sockets that do so, to be closed at the end.
    ``OSError`` if it is taken."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, address in dict.fromkeys(found):
        where = (address[0], port, *address[2:])
        if port:
            with _bound(family, where) as alone:
                _trying(where, alone.listen)
        kept = _bound(family, where, shared=True)
        keep(kept)
        port = port or int(kept.getsockname()[1])
    return port


def _bound(family: int, where: tuple[object, ...], *, shared: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _trying(where, lambda: sock.bind(where))
    except BaseException:
        sock.close()
        raise
    return sock


def _trying(where: tuple[object, ...], act: Callable[[], object]) -> None:
    try:
        act()
    except OSError as error:
        said = f"error while attempting to bind on address {where}: {(error.strerror or str(error)).lower()}"
        raise OSError(error.errno, said) from None
