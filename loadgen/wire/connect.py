"""Connecting: names, TLS and proxies are aiohttp's business, and nothing else is.

The one importer of aiohttp beside the stock client that this one is held against.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable

import aiohttp
import yarl
from aiohttp.client_reqrep import ClientRequest

from contract.errors import BackendError

DNS_SECONDS = 300  # a name is looked up again after so long


class Connector:
    """Opens connections to one server. Needs a running loop.

    `tls` None verifies by the system's authorities. A proxy, `http://HOST:PORT`, is asked for a
    tunnel, so that it serves https addresses only.
    """

    def __init__(
        self, address: str, *, tls: ssl.SSLContext | None = None, proxy: str | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._tcp = aiohttp.TCPConnector(limit=0, force_close=True, ttl_dns_cache=DNS_SECONDS)
        self._url = yarl.URL(address, encoded=True)
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        self._proxy = yarl.URL(proxy) if proxy else None
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=None)

    async def connect(self) -> tuple[asyncio.Transport, Callable[[], None]]:
        """A transport, and what closes it for good; BackendError(`unreachable`) with a reason."""
        request = ClientRequest("GET", self._url, loop=self._loop, ssl=self._tls, proxy=self._proxy)
        try:
            made = await self._tcp.connect(request, traces=[], timeout=self._timeout)
        except (aiohttp.ClientError, OSError) as error:
            raise BackendError("unreachable", refusal(error)) from error
        transport = made.transport
        if transport is None:
            made.close()
            raise BackendError("unreachable", "the connection was closed at once")
        return transport, made.close

    async def close(self) -> None:
        """Close what is still open."""
        await self._tcp.close()


def refusal(error: Exception) -> str:
    """Why there was no connection, in one line."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "the name does not resolve"
        case aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch():
            return f"TLS: {error}"
        case aiohttp.ClientConnectorError():
            return _of_system(error.os_error)
        case OSError():
            return _of_system(error)
    return str(error)


def _of_system(error: OSError) -> str:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "no file descriptor left on this machine: raise ulimit -n"
    refused = isinstance(error, ConnectionRefusedError) or error.errno == errno.ECONNREFUSED
    return "connection refused" if refused else str(error)
