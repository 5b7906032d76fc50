"""A tool of another make, driven by the bench: found request by request in the server's log."""

import json
import shutil
import sys
from itertools import pairwise

import pytest

from bench import compare
from bench.peers import Peer, Seen

SCRIPT = """
import http.client, json, sys, time
url, tokens, folder, left_out = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
lines = open(folder + "/prompts.jsonl").read().splitlines()
told = []
connection = http.client.HTTPConnection(url.removeprefix("http://"))
for number, line in reversed(list(enumerate(lines[left_out:]))):
    body = json.dumps({**json.loads(line), "max_tokens": tokens})
    sent = time.monotonic()
    connection.request("POST", "/v1/completions", body)
    answer = connection.getresponse()
    seen = [time.monotonic() for event in answer if b"tok" in event]
    told.append([number + left_out, sent, seen])
open(folder + "/told", "w").write(json.dumps(told))
"""


def seen(folder):
    for number, sent, times in json.loads((folder / "told").read_text()):
        gaps = [later - earlier for earlier, later in pairwise(times)]
        yield Seen(number, times[0] - sent, sum(gaps) / len(gaps), gaps)


@pytest.fixture
def tool(tmp_path):
    """A sequential client that leaves out as many prompts as told."""
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        pytest.skip("no C compiler: apt-get install gcc libc6-dev")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def made(left_out):
        command = f"{sys.executable} {script} {{url}} {{tokens}} {{folder}} {left_out}"
        return compare.of(Peer("slow", "1", ("slow",), command, "prompt", seen), tmp_path)

    return made


def test_every_request_is_compared_with_itself(tool):
    figures = compare.paced(tool(0), requests=5)

    assert figures["found"] == figures["paced_requests"] == 5
    # Beside waits of 50 ms and gaps of 10 ms: a busy machine merges two gaps into one of 20.
    for name in ("ttft_p50_ms", "gap_p50_ms", "mean_gap_p50_ms"):
        assert 0 <= figures[name] < 25


def test_a_tool_that_does_less_than_asked_is_named_and_the_others_are_measured(tool):
    lazy, bare = compare.compared([tool(1), compare.bare()], seconds=0.1, repeats=1, limit=99)

    assert lazy["failed"] == "255 replies of the 256 asked for"
    assert lazy["figures"] == []
    assert "failed" not in bare
    assert bare["figures"][0]["token_us"] > 0
    assert bare["figures"][0]["processes"] == 1
    assert bare["figures"][0]["connections"] == compare.STREAMS
    assert bare["figures"][0]["peak_mb"] > 1
