"""Two bundles that say otherwise of one and the same call: which of them is in force is seen in what is decided."""

from __future__ import annotations

import shutil
from pathlib import Path

from policies.bundle import Bundle
from tests.policies.support import ALWAYS, built
from tests.support.chat import Call, Say, read_whole
from tests.support.raw import send
from tests.support.records import records
from tests.support.serving import ask, post
from tests.support.wire import parse
from tracing.records import Alerted

SAY = Say("Hm.", "So be it.", (Call("look", "{}"),))
ENFORCED = {f"acme.{name}": "enforce" for name in ("first", "second")}


def two_bundles(opa_binary: Path, folder: Path) -> dict[str, Bundle]:
    """Two bundles with the same two policies: both deny in ``old``, both end the answer in ``new``."""
    return {
        name: built(
            opa_binary,
            folder / name,
            {f"acme/{policy}/policy.rego": ALWAYS.format(name=policy, action=action) for policy in ("first", "second")},
        )
        for name, action in (("old", "deny"), ("new", "terminate"))
    }


def put(bundle: Bundle, folder: Path) -> None:
    """As a deployment would: written beside, and moved into place."""
    beside = folder.with_name(f"{folder.name}.new")
    bundle.write(beside)
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}.old"))
    beside.rename(folder)
    shutil.rmtree(folder.with_name(f"{folder.name}.old"), ignore_errors=True)


async def asks(port: int) -> str:
    """The answer to a request, from which the call was taken."""
    answer = parse(await send(port, post(ask())))
    assert answer.start == "HTTP/1.1 200 OK", answer.body
    (choice,) = read_whole(answer.body).values()
    assert not choice.calls
    return answer.body.decode()


def alerts(state: Path) -> list[tuple[str, str]]:
    return [(record.cause, record.state) for record in records(state, Alerted)]
