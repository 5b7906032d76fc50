"""What the interpreter is asked to do while requests flow, and that it is asked back."""

import gc
import sys
import weakref

import pytest

from loadgen.quiet import SWITCH, loading, quiet, settle, thaw


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


class Node:
    """What only a collection finds once it is let go."""

    def __init__(self) -> None:
        self.itself = self


def test_what_is_loaded_is_collected_neither_then_nor_later():
    try:
        with loading():
            assert not gc.isenabled()
            modules = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() > len(modules)
    finally:
        gc.unfreeze()


def test_a_load_that_fails_leaves_collections_as_they_were():
    with pytest.raises(LookupError), loading():
        raise LookupError
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_what_a_stage_leaves_behind_is_found_before_the_next():
    with quiet():
        node = Node()
        gone = weakref.ref(node)
        settle()
        del node
        thaw()
        settle()
        assert gone() is None
