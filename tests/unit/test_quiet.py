"""What the interpreter is asked to do while requests flow, and that it is asked back."""

import gc
import sys

import pytest

from loadgen.quiet import SWITCH, quiet, settle


def test_threads_give_way_soon_and_what_is_there_is_collected_no_more_until_the_end():
    before = sys.getswitchinterval()
    with quiet():
        assert sys.getswitchinterval() == pytest.approx(SWITCH, rel=0.02)
        assert before > SWITCH
        settle()
        assert gc.get_freeze_count() > 0
        first = gc.get_freeze_count()
        kept = [[] for _ in range(1000)]
        settle()
        assert gc.get_freeze_count() >= first + len(kept) - 500  # some garbage went
    assert sys.getswitchinterval() == pytest.approx(before, rel=0.02)
    assert gc.get_freeze_count() == 0


def test_an_interval_shorter_already_stays():
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH / 2)
    try:
        with quiet():
            assert sys.getswitchinterval() == pytest.approx(SWITCH / 2, rel=0.02)
        assert sys.getswitchinterval() == pytest.approx(SWITCH / 2, rel=0.02)
    finally:
        sys.setswitchinterval(before)
