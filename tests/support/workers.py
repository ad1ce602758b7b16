"""The worker processes of a served Interlock, and connections to a worker of the test's choice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.support.raw import whole_message
from tests.support.served import until
from tests.support.serving import post
from tests.support.wire import Message, parse


def workers_of(parent: int) -> dict[int, int]:
    """Pids of the live workers of the process ``parent``, by number."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, above = stat.read_text().rpartition(")")[2].split()[:2]
            words = (stat.parent / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            if int(above) == parent and state != "Z" and any(b"proxy.workers.worker" in word for word in words):
                found[int(words[-1])] = int(stat.parent.name)
    return found


def alive(pid: int) -> bool:
    """Whether the process is there and not only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Connection:
    """One kept-alive connection to the data port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, body: dict[str, object]) -> Message:
        """One exchange."""
        self.writer.write(post(body))
        return await self.answer()

    async def answer(self) -> Message:
        async with asyncio.timeout(60):
            return parse(await whole_message(self.reader))

    @property
    def port(self) -> int:
        """Our own."""
        number: int = self.writer.get_extra_info("sockname")[1]
        return number


def taken_by(connection: Connection, port: int, pids: Iterable[int]) -> int | None:
    """The process that accepted the connection; None if none did yet."""
    ends = (f":{port:04X}", f":{connection.port:04X}")
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if (row[1][-5:], row[2][-5:]) == ends}
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(FileNotFoundError):
                    if str(descriptor.readlink()) in sockets:
                        return pid
    return None


@asynccontextmanager
async def connections(port: int, pids: Iterable[int], each: int = 1) -> AsyncIterator[dict[int, list[Connection]]]:
    """``each`` connections to every one of these workers, by pid. The kernel chooses, so it is tried often."""
    found: dict[int, list[Connection]] = {pid: [] for pid in pids}
    opened: list[Connection] = []
    try:
        async with asyncio.timeout(60):
            while any(len(kept) < each for kept in found.values()):
                one = await Connection.open(port)
                opened.append(one)
                await until(lambda one=one: taken_by(one, port, found) is not None)
                pid = taken_by(one, port, found)
                assert pid is not None
                if len(found[pid]) < each:
                    found[pid].append(one)
                else:
                    one.writer.close()
        yield found
    finally:
        for one in opened:
            one.writer.close()
