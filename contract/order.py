"""Whether a record holds together: its instants in order, its gaps those of its chunks. Pure.

What holds of one field alone stands in its annotation (`contract.records`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contract.records import RequestRecord

# Instants are written with the digits of a double; so many seconds are rounding, not disorder.
TOLERANCE = 1e-6
INSTANTS = ("due", "sent", "first_token", "last_token", "ended")


def flaw(record: RequestRecord) -> str | None:
    """What contradicts itself in a record, found against expected; None where nothing does."""
    return _disorder(record) or _answer(record) or _gaps(record)


def _disorder(record: RequestRecord) -> str | None:
    sent, first, last = record.sent, record.first_token, record.last_token
    if (sent is not None and first is not None and last is not None) and (
        record.due <= sent <= first <= last <= record.ended
    ):
        return None  # where nearly all of them end
    before, at = "due", record.due
    for name in INSTANTS:
        instant = getattr(record, name)
        if instant is None:
            continue
        if instant < at - TOLERANCE:
            return f"{name}: {instant} found, at least {before} = {at} expected"
        before, at = name, instant
    return None


def _answer(record: RequestRecord) -> str | None:
    answer, first, last = record.first_answer, record.first_token, record.last_token
    if answer is None:
        return None
    if first is None or last is None:
        return f"first_answer: {answer} found, None expected without a token"
    if first - TOLERANCE <= answer <= last + TOLERANCE:
        return None
    return f"first_answer: {answer} found, first_token = {first} to last_token = {last} expected"


def _gaps(record: RequestRecord) -> str | None:
    gaps = record.gaps_us
    expected = max(0, record.chunks - 1)
    if len(gaps) != expected:
        return f"gaps_us: {len(gaps)} of them found, {expected} expected of {record.chunks} chunks"
    if not gaps or record.first_token is None or record.last_token is None:
        return None
    between = 1e6 * (record.last_token - record.first_token)
    if sum(gaps) > between + len(gaps) + 1:  # each is rounded by half a microsecond at most
        return (
            f"gaps_us: {sum(gaps)} together found, at most {between:.0f} expected from "
            "first_token to last_token"
        )
    return None
