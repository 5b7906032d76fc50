"""The lane: the short way of a plain answer, compiled; without a compiler there is none.

`core.pyx` reads sockets, reads the events of an OpenAI stream and writes its record line, with
no Python between them; `entry` says which stages may take it. What it does not find plain goes
the general way, through `loadgen.wire` and the dialects, which are what it is held against.
"""

from __future__ import annotations

try:
    from loadgen.lane.core import Channel, Fold, Inlet, lines

    COMPILED = True
except ModuleNotFoundError as error:
    if error.name != "loadgen.lane.core":
        raise
    from loadgen.lane.plain import Channel, Fold, Inlet, lines

    COMPILED = False

__all__ = ["COMPILED", "Channel", "Fold", "Inlet", "lines"]
