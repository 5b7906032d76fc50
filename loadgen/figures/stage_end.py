"""A stage once it is over: its line, its verdicts, and whether its target is still there. Pure."""

from __future__ import annotations

from contract.records import GeneratorError, Stage, Verdict
from contract.steady import mser5
from contract.words import number_of
from loadgen.figures.generator import generator_error, generator_verdict
from loadgen.figures.saturation import saturation_verdict
from loadgen.figures.tally import Tally
from loadgen.figures.verdicts import verdicts
from loadgen.window import Windowed

AWAY = 0.2  # of a window's time or completions: more without an answer at its end is no gap
FEWEST_UNREACHED = 3  # and so many requests at least


def stage_of(stage: Windowed, tally: Tally, epoch_unix: float) -> Stage:
    """The line of `stages.jsonl` for a stage that is over and its records' tally."""
    start, end, stamps = stage.start, stage.end, stage.counts.stamps
    latencies, lags = tally.latencies, stage.counts.loop_lags
    error = None if stamps is None else generator_error(stamps, lags, tally)
    dropped = mser5(latencies)
    return Stage(
        run=stage.run,
        stage=stage.plan.number,
        key=stage.plan.key,
        began=stage.began,
        start=start,
        end=end,
        drained=stage.drained,
        start_unix=epoch_unix + start,
        end_unix=epoch_unix + end,
        steady_start=start + (end - start) * dropped / len(latencies) if latencies else start,
        outcomes={name: n for name, n in tally.outcomes.items() if n},
        sent=tally.sent,
        verdicts=_verdicts(stage, tally, error),
        complete=stage.complete and not gone(tally, stage.plan.key.agents, start, end),
        generator=error,
    )


def no_success(stage: Windowed) -> str:
    """The line for a stage in which nothing succeeded."""
    reasons = stage.counts.reasons.most_common(1)
    why = f", most often {reasons[0][0]} ({number_of(reasons[0][1], 'time')})" if reasons else ""
    return (
        f"no request succeeded in stage {stage.plan.number} ({stage.plan.key.level})"
        f": {stage.counts.sent} sent{why}; see requests.jsonl of the run"
    )


def gone(tally: Tally, agents: int, start: float, end: float) -> bool:
    """Whether the target was away when the window closed, and not for a moment: the last
    requests, one per agent at least, reached nobody for a share of its time or of its number."""
    heard = start if tally.heard is None else tally.heard
    share = max(
        (end - heard) / (end - start) if end > start else 0.0,
        tally.unreached / max(1, sum(tally.outcomes.values())),
    )
    return tally.unreached >= max(FEWEST_UNREACHED, agents) and share >= AWAY


def went_away(done: Stage, tally: Tally) -> str:
    """The line for a stage whose target went away."""
    silent = done.end - (done.start if tally.heard is None else tally.heard)
    return (
        f"the target went away in stage {done.stage} ({done.key.level}): the last "
        f"{tally.unreached} requests, {silent:.1f} s, reached nobody; what was measured before is "
        "kept, start the server and run again"
    )


def _verdicts(stage: Windowed, tally: Tally, error: GeneratorError | None) -> list[Verdict]:
    """The doubts about a stage; an open loop may have been saturated."""
    start, end = stage.start, stage.end
    lags = stage.counts.loop_lags
    found = verdicts(tally.evidence(stage.plan.key.agents, start, end, lags))
    found.append(generator_verdict(error, tally))
    if stage.plan.key.request_rate is not None:
        found.append(saturation_verdict(tally.dues, tally.endeds, start, end))
    return found
