"""The metric table as prometheus_client instruments, and the small server that shows them."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from socketserver import TCPServer
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    disable_created_metrics,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.utils import floatToGoString

from contract.errors import ConfigError
from contract.metrics import METRICS, Metric, Source, metric

PAUSE = 0.001  # seconds between two families of a page

Health = Callable[[], tuple[bool, str]]


class Instruments:
    """One instrument per table row of a program, on a registry of its own.

    `instruments["requests_total"]` is the prometheus_client object of that row, a `Distribution`
    where it is a histogram. `before_scrape` is called, on the scraping thread, before each look.
    """

    def __init__(self, source: Source) -> None:
        # They are in no table, and double what is scraped.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.before_scrape: Callable[[], object] = lambda: None
        self.registry.register(self)  # the first to be collected
        self._by_name = {
            row.name: _instrument(row, self.registry) for row in METRICS if row.source == source
        }

    def __getitem__(self, short_name: str) -> Any:
        return self._by_name[metric(short_name).name]

    def collect(self) -> Iterable[Any]:
        """Nothing of its own."""
        self.before_scrape()
        return ()


class Distribution:
    """A histogram that takes values at a tenth of what prometheus_client's costs.

    `labels` gives the cells of one label set; without labels there is one such set. Not locked:
    one thread observes at a time, and a scrape may see a value's bucket before its sum.
    """

    def __init__(self, row: Metric) -> None:
        self._row = row
        self._sets: dict[tuple[str, ...], Cells] = {}
        if not row.labels:
            self.labels()

    def labels(self, *values: str) -> Cells:
        """The cells of a label set, made at 0 when they are new."""
        return self._sets.setdefault(values, Cells(self._row.buckets))

    def observe(self, value: float) -> None:
        """Take a value where there are no labels."""
        self._sets[()].observe(value)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The family as it stands."""
        row = self._row
        family = HistogramMetricFamily(row.name, row.help, labels=row.labels)
        for values, cells in tuple(self._sets.items()):
            family.add_metric(values, cells.cumulated(), cells.total)
        yield family


class Cells:
    """The buckets and the sum of one label set."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Take one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def merge(self, counts: Sequence[int], total: float) -> None:
        """Take many values: how many fell in each bucket, the last without a bound, and their
        sum."""
        self._counts = [mine + more for mine, more in zip(self._counts, counts, strict=True)]
        self.total += total

    def cumulated(self) -> list[tuple[str, float]]:
        """How many values are at most each bound, as Prometheus wants them."""
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self._counts)), strict=True))


def _instrument(row: Metric, registry: CollectorRegistry) -> Counter | Gauge | Distribution:
    if row.kind == "histogram":
        distribution = Distribution(row)
        registry.register(distribution)
        return distribution
    kind = Counter if row.kind == "counter" else Gauge
    return kind(row.name, row.help, row.labels, registry=registry)


class MetricsServer:
    """Serves `/metrics`, `/-/healthy` and `/-/ready` from a daemon thread; counts scrapes.

    Port 0 takes a free one; `port` then says which. A busy port raises ConfigError.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        address: str,
        port: int,
        *,
        healthy: Health = lambda: (True, "ok"),
        ready: Health = lambda: (True, "ok"),
        flag: str = "--metrics-address, --metrics-port",
    ) -> None:
        self.scrapes = 0
        self._registry = registry
        self._answers = {"/-/healthy": healthy, "/-/ready": ready}
        try:
            self._server = _Listening((address, port), _handler(self))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"{flag}: cannot listen on {address}:{port} ({getattr(error, 'strerror', error)}); "
                "give another address or port, 0 for any free one"
            ) from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and wait for the serving thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str, accept: str) -> tuple[int, str, bytes]:
        """Status, content type and body for one GET."""
        if path == "/metrics":
            self.scrapes += 1
            encode, content_type = choose_encoder(accept)
            return 200, content_type, encode(_Leisurely(self._registry))
        if path in self._answers:
            good, text = self._answers[path]()
            return (200 if good else 503), "text/plain; charset=utf-8", f"{text}\n".encode()
        return 404, "text/plain; charset=utf-8", b"try /metrics, /-/healthy or /-/ready\n"


class _Leisurely:
    """A registry whose families come one by one, with a pause after each: whoever else runs in
    this process, an event loop that sends requests, is not held up by the whole page."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Any]:
        for family in self._registry.collect():
            yield family
            time.sleep(PAUSE)


class _Listening(ThreadingHTTPServer):
    """Without the look-up of its own name, which may take seconds and is of no use here."""

    server_bind = TCPServer.server_bind


def _handler(server: MetricsServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            accept = self.headers.get("Accept", "")
            status, content_type, body = server.answer(self.path.split("?")[0], accept)
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    return Handler
