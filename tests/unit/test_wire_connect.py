"""Why there was no connection, in words."""

import errno

from loadgen.wire.connect import refusal


def test_a_lack_of_descriptors_is_not_blamed_on_the_server():
    assert "raise ulimit -n" in refusal(OSError(errno.EMFILE, "Too many open files"))
    assert refusal(ConnectionRefusedError()) == "connection refused"
