"""Waiting for a server, in virtual time."""

import asyncio

import pytest

from contract.errors import TargetError
from loadgen.readiness import wait_all_ready, wait_ready


class Starting:
    """Answers with the first entry whose time has come: a status, or a reason for silence."""

    address = "http://there"
    ready_path = "/health"

    def __init__(self, *answers):
        self.answers = answers
        self.asked, self.open = [], False

    def connect(self):
        self.open = True

    async def close(self):
        self.open = False

    async def fetch(self, path, *, timeout):
        now = asyncio.get_running_loop().time()
        self.asked.append((path, round(now, 3)))
        answer = next(answer for until, answer in self.answers if now < until)
        if isinstance(answer, str):
            raise TargetError(f"no server at http://there ({answer}): start it there")
        return answer, None


def waited(jump, server, seconds):
    said = []

    async def main():
        await wait_ready(server, seconds, said.append)
        return asyncio.get_running_loop().time()

    return jump(main()), said


def test_a_server_that_is_there_is_not_waited_for(jump):
    server = Starting((99, 200))
    assert waited(jump, server, 30) == (0, [])
    assert server.asked == [("/health", 0)]
    assert not server.open


def test_refusals_and_503_are_waited_out_and_said(jump):
    server = Starting((12, "connection refused"), (25, 503), (99, 200))
    at, said = waited(jump, server, 60)
    assert at == 25
    assert said == [
        "waiting for http://there, 0 of 60 s: no server at http://there (connection refused): "
        "start it there",
        "waiting for http://there, 10 of 60 s: no server at http://there (connection refused): "
        "start it there",
        "waiting for http://there, 20 of 60 s: http://there answers HTTP 503, not ready",
        "http://there is ready after 25.0 s",
    ]
    assert not server.open


@pytest.mark.parametrize("status", [200, 204, 401, 404, 500])
def test_an_answer_is_an_answer_the_preflight_judges_it(jump, status):
    assert waited(jump, Starting((99, status)), 5) == (0, [])


def test_in_vain_it_is_one_line_with_the_reason_and_the_seconds(jump):
    server = Starting((99, "connection refused"))
    with pytest.raises(TargetError, match=r"refused\): start it there; waited 3\.2 s for it"):
        waited(jump, server, 3.2)
    assert server.asked[-1] == ("/health", 3.2)  # a last look when time is up
    assert not server.open


def test_several_are_waited_for_at_once_and_each_that_is_late_is_named(jump):
    quick, slow, never = (
        Starting((until, "connection refused"), (99, 200)) for until in (2, 8, 90)
    )
    jump(wait_all_ready([quick, slow], 30, lambda _line: None))
    assert (quick.asked[-1][1], slow.asked[-1][1]) == (2, 8)
    with pytest.raises(TargetError, match=r"5\.0 s for it; no server .* 5\.0 s for it$"):
        jump(wait_all_ready([never, quick, never], 5, lambda _line: None))
    assert [server.open for server in (quick, slow, never)] == [False] * 3
