"""A bundle that is fetched from a URL, with the last good copy kept on disk.

Whatever comes is verified before it takes the place of the copy: a bundle that is torn, unsigned or signed by somebody
else changes nothing. A start while the URL is away takes the copy.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import aiohttp
from aiohttp import hdrs

from policies.bundle import Bundle, BundleError
from policies.serials import Serials
from policies.signing import SignatureError
from serving.settings import PolicySettings

MOST_BYTES = 64 * 1024 * 1024
_SECONDS = 30.0


class FetchedBundle:
    """``path`` is where the copy lies. ``settings.bundle_url`` and ``bundle_keys`` must be set. What is older than what
    has been in force, or does not hold yet (``serials``), does not take the copy's place."""

    def __init__(self, settings: PolicySettings, path: Path, serials: Serials) -> None:
        if settings.bundle_url is None or not settings.bundle_keys:
            raise BundleError(
                "policies.bundle_url needs policies.bundle_keys: what comes over a network must be signed"
            )
        self.path = path
        self._url = settings.bundle_url
        self._keys = settings.bundle_keys
        self._serials = serials
        self._headers = {}
        if settings.bundle_token is not None:
            self._headers[hdrs.AUTHORIZATION] = f"Bearer {settings.bundle_token.get_secret_value()}"
        self._mark: str | None = None

    async def fetch(self) -> bool:
        """Look once; gives whether there was another bundle than before. Raises :class:`BundleError` if there is none
        to be had, or one that cannot be used; the copy stays as it is then."""
        headers = dict(self._headers)
        if self._mark is not None and self.path.exists():
            headers[hdrs.IF_NONE_MATCH] = self._mark
        try:
            timeout = aiohttp.ClientTimeout(total=_SECONDS)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(self._url, headers=headers, allow_redirects=False) as answer,
            ):
                if answer.status == 304:
                    return False
                if answer.status != 200:
                    raise BundleError(f"{self._url}: answered {answer.status}")
                content = bytearray()
                async for part in answer.content.iter_chunked(256 * 1024):
                    content += part
                    if len(content) > MOST_BYTES:
                        raise BundleError(f"{self._url}: is larger than {MOST_BYTES} bytes")
                mark = answer.headers.get(hdrs.ETAG)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BundleError(f"{self._url}: cannot be fetched: {type(error).__name__}") from None
        changed = await asyncio.to_thread(self._keep, bytes(content))
        self._mark = mark
        return changed

    def _keep(self, content: bytes) -> bool:
        if self.path.exists() and self.path.read_bytes() == content:
            return False
        beside = self.path.with_name(f"{os.getpid()}-{self.path.name}")
        beside.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            beside.write_bytes(content)
            Bundle.load(beside, self._keys, self._serials.intake(), self._url)
            beside.replace(self.path)
        except SignatureError as problem:
            raise BundleError(str(problem)) from None
        finally:
            beside.unlink(missing_ok=True)
        return True
