"""What may hold the event loop up from within this very process, kept short while requests flow."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Seconds after which another thread (that of `/metrics`) lets the event loop go on. The
# interpreter's own 5 ms are half a gap between tokens.
SWITCH = 0.0002


@contextmanager
def quiet() -> Iterator[None]:
    """Have other threads give way soon, and at the end everything as it was before."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(SWITCH, before))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
        gc.unfreeze()


@contextmanager
def loading() -> Iterator[None]:
    """Load modules and build what lasts without a look for garbage in between, and let later
    looks pass over it. Otherwise they take a tenth of the CPU until the first request."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def settle() -> None:
    """Collect garbage now, and let later collections pass over what is there: looking at all
    the modules takes some 30 ms, at what a few requests left behind a fraction of one."""
    gc.collect()
    gc.freeze()


def thaw() -> None:
    """Between stages: let the next collection see all that has become garbage since."""
    gc.unfreeze()
