"""Budgets by lease: what an exchange may use is held before it begins and settled after it.

A lease holds the estimated prompt and the first tokens of the answer on every budget that binds (the run's
for its whole life, the agent's over a rolling window; in tokens, in USD). While the answer streams, the lease
is extended step by step before its tokens are given out; where it cannot be, the answer is cut. So at any
moment spent plus held stays within each limit, however many exchanges run at once. A budget is overrun only
by as much as a prompt is longer than was estimated; what was really used is booked in full.

An answer that is not streamed cannot be cut half-way, so all that it may make is held at once: prompt plus
``n`` times its limit. Where that is unknown, it is refused.

A cost budget needs the model's price; without one it is refused, because a guard that cannot count is no
guard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from proxy.breakers.store import Charge, Store
from serving.settings import AgentSettings, BreakerSettings
from serving.wire.request import ChatRequest
from serving.wire.vocabulary import Usage

FIRST_TOKENS = 256
"""Tokens per choice that are held before an answer begins; also a good step for :meth:`Lease.extend`."""

BYTES_PER_TOKEN = 4
TEMPLATE_TOKENS = 16

Scope = Literal["run", "agent", "team", "total"]
Unit = Literal["tokens", "usd"]
Price = Callable[[Usage], float]
"""USD for a usage. Must be additive: a sum of usages costs the sum of their prices."""


class Budget(msgspec.Struct, frozen=True):
    """``limit`` tokens or USD for ``name`` in ``scope``, per ``window`` seconds (None: for life)."""

    scope: Scope
    name: str
    unit: Unit
    limit: float
    window: float | None = None

    def charge(self, amount: float) -> Charge:
        return Charge(_account(self.scope, self.unit, self.name), amount, self.limit, self.window)


def _account(scope: Scope, unit: Unit, name: str) -> str:
    return f"budget:{scope}:{unit}:{name}"


def run_accounts(run: str) -> list[str]:
    """The accounts of a run's own budgets."""
    return [_account("run", "tokens", run), _account("run", "usd", run)]


class Estimate(msgspec.Struct, frozen=True):
    """What an exchange will use before anything of it is known: tokens of the prompt, tokens of the answer
    that are held at the start (all choices), the most that the answer may have (None: unknown), and whether
    it is streamed. ``price`` is None where the model's price is not known."""

    prompt: int
    answer: int
    most: int | None
    streamed: bool
    price: Price | None = None


class Exhausted(msgspec.Struct, frozen=True):
    """Which budget has too little left. ``why`` is ``used_up``, ``unbounded`` (an answer without streaming
    and without limit) or ``no_price``. ``retry_after``: seconds, None if time alone does not help."""

    scope: Scope
    unit: Unit
    limit: float
    used: float
    wanted: float
    retry_after: float | None = None
    why: Literal["used_up", "unbounded", "no_price"] = "used_up"


def estimate_prompt_tokens(request_bytes: int) -> int:
    """Tokens of a prompt, from the size of the request's body: a quarter of its bytes and 16 more.

    Rather high for prose (4 to 5 bytes a token, and the body's JSON counts too); low for what tokenizers
    know badly (base64, digits, rare scripts): up to half.
    """
    return -(-request_bytes // BYTES_PER_TOKEN) + TEMPLATE_TOKENS


def estimate(
    request: ChatRequest, request_bytes: int, *, context: int | None = None, price: Price | None = None
) -> Estimate:
    """The estimate for a request. ``context`` is the model's context length in tokens, where known: it
    bounds answers whose request states no limit."""
    limit = request.limit if request.limit is not None else context
    first = FIRST_TOKENS if limit is None else min(limit, FIRST_TOKENS)
    most = None if limit is None else limit * request.n
    return Estimate(
        prompt=estimate_prompt_tokens(request_bytes),
        answer=first * request.n,
        most=most,
        streamed=request.stream,
        price=price,
    )


def budgets_for(agent: str, run: str, settings: BreakerSettings, own: AgentSettings) -> tuple[Budget, ...]:
    """The budgets that bind an exchange. An agent's own limits for its runs replace the general ones."""
    run_tokens = own.run_tokens if own.run_tokens is not None else settings.run_tokens
    run_usd = own.run_usd if own.run_usd is not None else settings.run_usd
    window = settings.window_seconds
    binding: list[Budget] = []
    if run_tokens is not None:
        binding.append(Budget("run", run, "tokens", run_tokens))
    if run_usd is not None:
        binding.append(Budget("run", run, "usd", run_usd))
    if own.tokens is not None:
        binding.append(Budget("agent", agent, "tokens", own.tokens, window))
    if own.usd is not None:
        binding.append(Budget("agent", agent, "usd", own.usd, window))
    return tuple(binding)


class Lease:
    """What is held for one exchange. Ends with :meth:`settle` or :meth:`release`, whichever comes first.

    ``tokens``: how many are held, prompt and answer together.
    """

    def __init__(self, store: Store, budgets: Sequence[Budget], price: Price | None) -> None:
        self._store = store
        self._budgets = tuple(budgets)
        self._price = price
        self._held = [0.0] * len(self._budgets)
        self._open = True
        self.tokens = 0

    @property
    def binding(self) -> bool:
        """Whether any budget binds this exchange; if none does, there is no need to count or extend."""
        return bool(self._budgets)

    def covers(self, tokens: int) -> bool:
        """Whether ``tokens`` (prompt and answer together, so far) are within what is held."""
        return not self._budgets or tokens <= self.tokens

    async def extend(self, tokens: int) -> bool:
        """Holds as many tokens more of answer; False: a budget has not that much left, nothing changed."""
        return self._open and await self.take(Usage(prompt=0, completion=tokens)) is None

    async def take(self, usage: Usage) -> Exhausted | None:
        """Holds this much more on every budget, or says on which it does not fit and holds nothing."""
        amounts = [_amount(budget, usage, self._price) for budget in self._budgets]
        if amounts:
            short = await self._store.hold(self._charges(amounts))
            if short is not None:
                budget, wanted = self._budgets[short.place], amounts[short.place]
                return Exhausted(budget.scope, budget.unit, budget.limit, short.used, wanted, short.retry_after)
        self._held = [held + amount for held, amount in zip(self._held, amounts, strict=True)]
        self.tokens += usage.prompt + usage.completion
        return None

    async def settle(self, actual: Usage) -> None:
        """Books what was really used, and gives the rest back."""
        await self._close([_amount(budget, actual, self._price) for budget in self._budgets])

    async def release(self) -> None:
        """Gives everything back: the model made nothing."""
        await self._close([0.0] * len(self._budgets))

    async def _close(self, spent: list[float]) -> None:
        if self._open:
            self._open = False
            if spent:
                await self._store.settle(self._charges(self._held), spent)

    def _charges(self, amounts: Sequence[float]) -> list[Charge]:
        return [budget.charge(amount) for budget, amount in zip(self._budgets, amounts, strict=True)]


async def reserve(store: Store, budgets: Sequence[Budget], wanted: Estimate) -> Lease | Exhausted:
    """Takes a lease, or says which budget does not allow it."""
    for budget in budgets:
        if budget.unit == "usd" and wanted.price is None:
            return await _refusal(store, budget, "no_price")
        if not wanted.streamed and wanted.most is None:
            return await _refusal(store, budget, "unbounded")
    answer = wanted.answer if wanted.streamed or wanted.most is None else wanted.most
    lease = Lease(store, budgets, wanted.price)
    return await lease.take(Usage(prompt=wanted.prompt, completion=answer)) or lease


async def _refusal(store: Store, budget: Budget, why: Literal["unbounded", "no_price"]) -> Exhausted:
    (used,) = await store.used([budget.charge(0.0)])
    return Exhausted(budget.scope, budget.unit, budget.limit, used, 0.0, why=why)


def _amount(budget: Budget, usage: Usage, price: Price | None) -> float:
    if budget.unit == "tokens":
        return float(usage.prompt + usage.completion)
    return price(usage) if price is not None else 0.0
