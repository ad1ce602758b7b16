"""Who asks: from an API key to an agent, and from the caller's credential to the model server's.

How to think about it. With no keys configured there is one agent, ``anonymous``, and what the caller sent as
``Authorization`` is a matter between it and the model server. With keys, the key *is* the agent: it is ours, so it is
taken off the request, and without a known one nothing is forwarded (but OPTIONS, which vLLM answers unauthenticated
too: a browser's preflight carries no credential). Where an upstream key is set it replaces whatever there was.

A key comes as ``Authorization: Bearer``, or as ``x-api-key`` where there is no ``Authorization``: so Anthropic's
clients send it. An ``x-api-key`` beside it that is no key of ours is none of our business, and passes.

Keys are looked up by a digest under a random key of this process, so how long a look-up takes says nothing
about any configured key.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import NoReturn

import msgspec
from aiohttp import hdrs
from multidict import CIMultiDict

from proxy.refusals import Refuse
from serving.settings import Settings

ANONYMOUS = "anonymous"
_API_KEY = "x-api-key"


class Agent(msgspec.Struct, frozen=True):
    """Who the credential stands for; budgets and tools are in ``settings.agents[name]``, if it is there."""

    name: str
    owner: str | None = None
    team: str | None = None


class Identifier:
    """Knows the keys. Holds their digests only."""

    def __init__(self, settings: Settings) -> None:
        self._salt = secrets.token_bytes(32)
        self._by_digest: dict[bytes, Agent] = {}
        for name, agent in settings.agents.items():
            for key in agent.keys:
                self._by_digest[self._digest(key.get_secret_value())] = Agent(name, agent.owner, agent.team)
        nobody = settings.agents.get(ANONYMOUS)
        self._anonymous = Agent(ANONYMOUS, nobody.owner, nobody.team) if nobody else Agent(ANONYMOUS)
        upstream_key = settings.upstream.api_key
        self._upstream = f"Bearer {upstream_key.get_secret_value()}" if upstream_key else None

    def identify(self, headers: CIMultiDict[str], method: str = "POST") -> Agent:
        """The agent of a request, whose ``headers`` are changed to what the model server gets. Raises
        ``Refuse`` (401) where a key is needed and none, an unknown one, or more than one is given."""
        agent = self._agent(headers, method) if self._by_digest else self._anonymous
        if self._by_digest or self._upstream is not None:
            headers.popall(hdrs.AUTHORIZATION, None)
        if self._by_digest and any(map(self._known, headers.getall(_API_KEY, ()))):
            headers.popall(_API_KEY)
        keyless = self._by_digest and agent is self._anonymous  # a preflight, which is nobody's
        if self._upstream is not None and not keyless:
            headers.add(hdrs.AUTHORIZATION, self._upstream)
        return agent

    def _agent(self, headers: CIMultiDict[str], method: str) -> Agent:
        given, keys = headers.getall(hdrs.AUTHORIZATION, []), headers.getall(_API_KEY, [])
        if not given and not keys and method == hdrs.METH_OPTIONS:
            return self._anonymous
        if len(given) > 1 or (not given and len(keys) != 1):
            raise _unauthorized("Send your Interlock API key in one `Authorization: Bearer` or `x-api-key` header.")
        if not given:
            return self._known(keys[0]) or _unknown()
        scheme, _, key = given[0].partition(" ")
        agent = self._known(key) if scheme.lower() == "bearer" else None
        if agent is None or any(self._known(other) not in (None, agent) for other in keys):
            return _unknown()
        return agent

    def _known(self, key: str) -> Agent | None:
        return self._by_digest.get(self._digest(key))

    def _digest(self, key: str) -> bytes:
        return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), key=self._salt, digest_size=32).digest()


def _unknown() -> NoReturn:
    raise _unauthorized("This API key is not known. Ask the operator for a key of your agent.")


def _unauthorized(message: str) -> Refuse:
    return Refuse("invalid_api_key", message)
