"""The load generator's own error: what it may have added to the instants it tells. Pure.

An instant is later than the arrival it stands for, by no more than it took until the bytes were
read; one that the kernel stamped is not late at all. But bytes that were read together have one
stamp, that of the last: an earlier one of them has been waiting, unread, and its instant is late.
docs/definitions.md has the formula.
"""

from __future__ import annotations

from contract.records import GeneratorError, Verdict
from contract.steady import quantile
from loadgen.figures.durations import Durations
from loadgen.figures.stamp_stats import StampStats
from loadgen.figures.tally import Tally

# Seconds: what lies between a system call and the clock read beside it, on either way.
PATH = 0.0002
LEAST_LIMIT, LIMIT_SHARE = 0.001, 0.05
# A gap lies between two arrivals: what is true of so few of them is true of few gaps.
FEW_ARRIVALS, FEW_FIRST = 0.005, 0.01
DELAY_QUANTILE = 1 - FEW_ARRIVALS


def generator_error(stamps: StampStats, loop_lags: Durations, tally: Tally) -> GeneratorError:
    """What a stage may have added to the instants of its window."""
    seen = stamps.delays if stamps.kernel else stamps.waits
    lags, delays = (each.quantiles((0.5, 0.99)) for each in (loop_lags, seen))
    return GeneratorError(
        declared=_declared(stamps, loop_lags, tally),
        send_lag_p50=quantile(tally.send_lags, 0.5),
        send_lag_p99=quantile(tally.send_lags, 0.99),
        loop_lag_p50=lags[0],
        loop_lag_p99=lags[1],
        stamp_delay_p50=delays[0],
        stamp_delay_p99=delays[1],
        kernel_share=stamps.kernel_share,
        reads=stamps.reads,
        missing=stamps.missing,
        merged=tally.merged,
    )


def _declared(stamps: StampStats, loop_lags: Durations, tally: Tally) -> float | None:
    """The bound for the p99 of the error of a first token and of a gap; None where nobody stamped
    reads, or nobody knows how late they were."""
    share = stamps.kernel_share
    if share is None:
        return None
    exact = PATH + stamps.clock
    unstamped, arrivals = 1 - share, tally.chunks
    late = unstamped + (tally.merged / arrivals if arrivals else 0.0)
    first = unstamped + (tally.merged_first / len(tally.ttfts) if tally.ttfts else 0.0)
    if late <= FEW_ARRIVALS and first <= FEW_FIRST:
        return exact
    seen = (loop_lags, stamps.delays, stamps.waits, stamps.first_waits)
    longest = [each.quantiles((DELAY_QUANTILE,))[0] for each in seen]
    known = [seconds for seconds in longest if seconds is not None]
    return exact + max(known) if known else None


def generator_verdict(error: GeneratorError | None, tally: Tally) -> Verdict:
    """Whether the error declared is small beside what it disturbs: first tokens and gaps."""
    gap = tally.chunk_gaps.without(0).quantiles((0.5,))[0]
    medians = [m for m in (gap, quantile(tally.ttfts, 0.5)) if m is not None]
    if error is None or error.declared is None or not medians:
        why = "nobody stamped what was read" if medians else "no token to hold it against"
        return Verdict("generator", True, None, None, "s", why, checked=False)
    least = min(medians)
    limit = max(LEAST_LIMIT, LIMIT_SHARE * least)
    what = "gap" if least == gap else "TTFT"
    return Verdict(
        "generator", error.declared <= limit, error.declared, limit, "s",
        f"p99 of our own error in first tokens and gaps is up to {error.declared * 1e3:.2f} ms, "
        f"allowed max({LEAST_LIMIT * 1e3:.0f} ms, {LIMIT_SHARE:.0%} of median {what}); "
        f"{error.merged} arrivals shared a stamp, the kernel stamped {error.kernel_share or 0:.1%} "
        "of the reads",
    )  # fmt: skip
