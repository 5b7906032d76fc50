"""One uniform number per (seed, purpose, number): the same in any process, in any order.

A draw depends on its keys alone, so shards and resumed runs see what one process would have
seen. Every law is then an inverse distribution function of one such number. Pure.
"""

from __future__ import annotations

from binascii import crc32

_MASK = 2**64 - 1


def uniform(seed: int, purpose: str, *numbers: int) -> float:
    """A number in (0, 1), never either end; different keys give independent ones."""
    return ((key(seed, purpose, *numbers) >> 12) + 0.5) / 2**52


def key(seed: int, purpose: str, *numbers: int) -> int:
    """64 bits to seed a generator with, one per (seed, purpose, numbers).

    Keys, each taken modulo 2^64, are folded through the finaliser of SplitMix64 (Steele, Lea
    and Flood 2014).
    """
    state = _mix(seed & _MASK)
    for part in (crc32(purpose.encode()), *numbers):
        state = _mix(state ^ (part & _MASK))
    return state


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
