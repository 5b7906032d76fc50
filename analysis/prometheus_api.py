"""Prometheus's query API with the standard library: raw samples, never stepped ranges.

An instant query on a range selector returns the samples as they were scraped; query_range and
rate() would resample and extrapolate. Anything that speaks this API serves (VictoriaMetrics,
Thanos, Mimir).
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contract.errors import ConfigError, DataError, TargetError

START_IT = "start it with: prometheus --config.file=prometheus/prometheus.yml"
_NOT_NOW = (502, 503, 504)


@dataclass(frozen=True, slots=True)
class Series:
    """One series: its labels and its samples, `times` (Unix seconds) rising."""

    labels: dict[str, str]
    times: list[float]
    values: list[float]


def selector(name: str, labels: Mapping[str, str]) -> str:
    """`name{label="value",…}`; an empty value matches an absent label."""
    pairs = ",".join(
        f"{label}={json.dumps(value, ensure_ascii=False)}" for label, value in labels.items()
    )
    return f"{name}{{{pairs}}}"


class Prometheus:
    """The query API at `url`. ConfigError when that is no http address.

    Queries raise TargetError when nobody answers within `timeout` seconds, and DataError when
    the answer is a refusal or not the API's.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._opener = _opener(self.url)

    def last_values(self, name: str, seconds: float) -> tuple[list[Series], float]:
        """The last sample of each series of `name` within `seconds` before now, stamped with
        the server's own now, which is also returned (0 when there is no series)."""
        found = self._query(f"last_over_time({name}[{_range(seconds)}])", None, "vector")
        series = [_series(each["metric"], [each["value"]]) for each in found]
        return series, max((each.times[0] for each in series), default=0.0)

    def raw(self, wanted: str, first: float, last: float) -> list[Series]:
        """Every sample of the selector `wanted` scraped within [first, last]."""
        query = f"{wanted}[{_range(last - first + 1)}]"
        found = self._query(query, last, "matrix")
        within = [
            _series(each["metric"], [pair for pair in each["values"] if float(pair[0]) >= first])
            for each in found
        ]
        return [series for series in within if series.times]

    def _query(self, query: str, at: float | None, kind: str) -> list[Any]:
        form = {"query": query} if at is None else {"query": query, "time": f"{at:.3f}"}
        answer = _decoded(self._answer(form), self.url, query)
        data = answer.get("data")
        data = data if isinstance(data, dict) else {}
        result = data.get("result")
        if not isinstance(result, list) or data.get("resultType") != kind:
            raise DataError(f"{self.url}: query {query}: found no {kind} in the answer")
        return result

    def _answer(self, form: dict[str, str]) -> bytes:
        request = urllib.request.Request(
            f"{self.url}/api/v1/query", data=urllib.parse.urlencode(form).encode()
        )
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            if error.code in _NOT_NOW:
                raise self._absent(f"HTTP {error.code}") from error
            raise DataError(
                f"{self.url}: query {form['query']}: HTTP {error.code} ({_why(error)}), expected "
                "Prometheus's query API to answer it"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._absent(getattr(error, "reason", None) or error) from error

    def _absent(self, reason: object) -> TargetError:
        return TargetError(f"Prometheus at {self.url} does not answer ({reason}); {START_IT}")


def _opener(url: str) -> urllib.request.OpenerDirector:
    parts = urllib.parse.urlsplit(url)
    try:
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(
            f"--from-prometheus: '{url}' given, an address such as http://localhost:9090 allowed"
        )
    proxies: dict[str, str] | None = {} if _is_loopback(host) else None
    return urllib.request.build_opener(urllib.request.ProxyHandler(proxies))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _range(seconds: float) -> str:
    return f"{max(1, math.ceil(seconds))}s"


def _decoded(body: bytes, url: str, query: str) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise DataError(f"{url}: query {query}: the answer is not JSON ({error})") from error
    if not isinstance(answer, dict) or answer.get("status") != "success":
        raise DataError(f"{url}: query {query}: found no success in the answer")
    return answer


def _why(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read(10_000))["error"])
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
        return str(error.reason)


def _series(labels: dict[str, str], pairs: list[Any]) -> Series:
    values = [float(value) for _, value in pairs]
    if not all(map(math.isfinite, values)):
        raise DataError(f"{selector(labels.get('__name__', ''), labels)}: a value is not finite")
    return Series(labels, [float(time) for time, _ in pairs], values)
