"""A stage for policies about text, on every API: a scripted upstream, a whole Interlock before it with a policy of the
test's, and what it has on record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.policies.support import built
from tests.support.apis import Api
from tests.support.chat import Call, Say
from tests.support.interlock import port_of, running
from tests.support.raw import scripted, send
from tests.support.records import records
from tests.support.serving import post
from tests.support.stage import Stage
from tests.support.wire import parse
from tracing.records import AnyRecord, Decided

HOLDS = {"none": "none", "tail": "tail(24)", "all": "all"}
"""What a policy's header says, by a name for it."""


class TextStage(Stage):
    def __init__(self, state: Path) -> None:
        super().__init__()
        self.state = state

    async def asks(self, api: Api, *, stream: bool) -> bytes:
        answer = parse(await send(self.port, post(api.ask(stream=stream), path=api.path)))
        assert answer.start == "HTTP/1.1 200 OK", answer.body
        assert answer.whole
        return answer.body

    def records(self, *kinds: type[AnyRecord]) -> list[Any]:
        return records(self.state, *kinds)

    def decided(self) -> list[Decided]:
        """The decisions about text of the last exchange that had one."""
        found = [record for record in self.records(Decided) if record.stage in ("output", "reasoning")]
        return [record for record in found if record.exchange == found[-1].exchange]


@asynccontextmanager
async def staged(state: Path, **policies: Any) -> AsyncIterator[TextStage]:
    """``policies`` is that section of the settings."""
    stage = TextStage(state)
    async with scripted(stage.play) as upstream, running(upstream.url, state, policies=policies) as interlock:
        stage.port = port_of(interlock)
        yield stage


@asynccontextmanager
async def staged_by_hold(
    opa_binary: Path, folder: Path, policy: str, holds: Iterable[str], modes: Mapping[str, str] | None = None
) -> AsyncIterator[dict[str, TextStage]]:
    """One Interlock for each of ``holds`` (names in :data:`HOLDS`): it enforces the policy with that hold, and has it
    in shadow with the others. ``policy`` is Rego with places for ``{name}`` and ``{hold}``; ``modes`` are those of the
    library's policies."""
    names = {hold: f"hold_{hold}" for hold in holds}
    sources = {f"team/{name}/policy.rego": policy.format(name=name, hold=HOLDS[hold]) for hold, name in names.items()}
    built(opa_binary, folder / "sources", sources, with_library=True).write(folder / "bundle")
    async with AsyncExitStack() as stack:
        yield {
            hold: await stack.enter_async_context(
                staged(folder / hold, bundle=folder / "bundle", modes={f"team.{name}": "enforce", **(modes or {})})
            )
            for hold, name in names.items()
        }


def says(surface: str, text: str, calls: tuple[Call, ...] = ()) -> Say:
    """An answer with ``text`` as what the model thinks (``reasoning``) or says."""
    return Say(text, "So be it.", calls) if surface == "reasoning" else Say("Hm, well.", text, calls)


def pieces(events: list[bytes], cuts: list[int]) -> list[bytes]:
    """The bytes of the events in pieces of the sizes in ``cuts``, over and over."""
    body = b"".join(events)
    out: list[bytes] = []
    sizes = iter(cuts * (len(body) + 1)) if cuts else iter([len(body)])
    while body:
        size = next(sizes)
        out.append(body[:size])
        body = body[size:]
    return out
