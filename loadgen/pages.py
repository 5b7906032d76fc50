"""Small pages of a server, fetched before a run and between its stages, never within a request.

The standard library does it, on a thread of its own: no stamp is taken here.
"""

from __future__ import annotations

import asyncio
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

import orjson

from contract.commandline import VERSION
from loadgen.families import Page

PAGE_TIMEOUT = 10.0  # seconds
PAGE_BUDGET = 16 * 2**20  # bytes
KEY_VARIABLES = ("LOADSTONE_API_KEY", "OPENAI_API_KEY")


class Pages:
    """The pages of the server at `base_url`, an address without a path of its own.

    The API key comes from the environment, as that of the requests does.
    """

    def __init__(self, base_url: str, timeout: float = PAGE_TIMEOUT) -> None:
        self._base = base_url.strip().rstrip("/").removesuffix("/v1").rstrip("/")
        self._timeout = timeout
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    async def fetch(self, page: Page) -> tuple[int | None, Any]:
        """Status and JSON document; (None, None) when there is no answer, and a document of
        None when the page holds no JSON."""
        return await asyncio.to_thread(self._fetch, page)

    def _fetch(self, page: Page) -> tuple[int | None, Any]:
        body = None if page.document is None else orjson.dumps(dict(page.document))
        try:
            request = urllib.request.Request(self._base + page.path, body, _headers(os.environ))
            with self._opener.open(request, timeout=self._timeout) as answer:
                return answer.status, _json(answer.read(PAGE_BUDGET))
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _json(error.read(PAGE_BUDGET))
        except (OSError, HTTPException, ValueError):
            return None, None


def _headers(environment: Mapping[str, str]) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "User-Agent": f"loadstone/{VERSION}"}
    keys = (environment.get(name, "").strip() for name in KEY_VARIABLES)
    if key := next(filter(None, keys), None):
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
