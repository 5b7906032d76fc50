"""The bench's two cores: the server on one, the client on the other, run after run."""

import os
import shutil
import sys

import pytest

from bench.harness import Client, measure

ASKS_ONCE = """
import os, sys, urllib.request
body = b'{"prompt": "a", "max_tokens": 1}'
urllib.request.urlopen(sys.argv[1] + "/v1/completions", body).read()
print(sorted(os.sched_getaffinity(0)))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_client_has_the_second_core_in_every_run():
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        pytest.skip("no C compiler: apt-get install gcc libc6-dev")
    usable = sorted(os.sched_getaffinity(0))
    client = Client("asks once", lambda task: [sys.executable, "-c", ASKS_ONCE, task.url])
    work = {"streams": 1, "requests": 1, "tokens": 1}

    told = [measure(client, work, {}).output.strip() for _ in range(2)]

    assert told == [str([usable[1]])] * 2
    assert sorted(os.sched_getaffinity(0)) == usable
