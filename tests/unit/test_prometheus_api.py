"""Whatever answers at the address, the user reads one line: what was found, what to start."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from analysis.prometheus_api import Prometheus, selector
from contract.errors import DataError, TargetError


@pytest.fixture
def answer():
    """A server that answers every POST with one status and body; gives its address."""
    servers = []

    def call(status, body):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/"

    yield call
    for server in servers:
        server.shutdown()
        server.server_close()


def matrix(values):
    return (
        '{"status":"success","data":{"resultType":"matrix","result":'
        f'[{{"metric":{{"a":"b"}},"values":{values}}}]}}}}'
    ).encode()


def raw(url):
    return Prometheus(url, timeout=30.0).raw("m", 10.0, 20.0)


def test_samples_before_the_first_instant_are_dropped(answer):
    [series] = raw(answer(200, matrix('[[9.5,"1"],[10,"2"],[19.5,"3"]]')))
    assert (series.labels, series.times, series.values) == ({"a": "b"}, [10.0, 19.5], [2.0, 3.0])


def test_a_series_wholly_before_it_is_none(answer):
    assert raw(answer(200, matrix('[[9.5,"1"]]'))) == []


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, b"<html>hello</html>", "the answer is not JSON"),
        (200, b"[]", "found no success in the answer"),
        (200, b'{"status":"error"}', "found no success in the answer"),
        (200, b'{"status":"success","data":7}', "found no matrix in the answer"),
        (200, b'{"status":"success","data":{"resultType":"vector","result":[]}}', "no matrix"),
        (200, matrix('[[10,"NaN"]]'), "a value is not finite"),
        (404, b"not here", "HTTP 404"),
        (422, b'{"status":"error","error":"too many samples"}', r"HTTP 422 \(too many samples\)"),
    ],
)
def test_an_answer_that_is_none_is_a_data_error(answer, status, body, says):
    with pytest.raises(DataError, match=says):
        raw(answer(status, body))


def test_a_server_that_is_not_ready_is_absent(answer):
    with pytest.raises(TargetError, match=r"does not answer \(HTTP 503\); start it with"):
        raw(answer(503, b"Service Unavailable"))


def test_a_server_that_says_nothing_is_absent_after_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(TargetError, match="does not answer"):
            Prometheus(url, timeout=0.05).raw("m", 10.0, 20.0)


def test_label_values_are_quoted():
    assert selector("m", {"a": 'x"y\\z', "b": "é"}) == 'm{a="x\\"y\\\\z",b="é"}'
