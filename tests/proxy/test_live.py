"""What runs now: who is waited for before an older set of policies is closed."""

from __future__ import annotations

import asyncio

from proxy.live import Live


async def test_a_request_of_an_earlier_epoch_is_waited_for_again() -> None:
    """Its body took so long that it got the judge of the second set, not of the one that it began under."""
    live = Live()
    slow = live.request_begun()
    first = asyncio.ensure_future(live.passed())
    await asyncio.sleep(0)
    quick = live.request_begun()
    second = asyncio.ensure_future(live.passed())
    await asyncio.sleep(0)
    late = live.request_begun()
    live.request_over(quick)
    await asyncio.sleep(0.01)
    assert not first.done() and not second.done()
    live.request_over(slow)
    async with asyncio.timeout(5):
        await asyncio.gather(first, second)
    assert not live.idle.is_set()
    live.request_over(late)
    await live.passed()
