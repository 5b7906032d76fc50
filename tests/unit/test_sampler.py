"""The schedule and the health of probes, on a scripted clock."""

from __future__ import annotations

import threading

import pytest

from agent.probes.base import HostData, Reading
from agent.sampler import Poller, Sampler, back_off, next_due
from contract.errors import ProbeError

DATA = HostData(100, 50, 0, 0.5, 1.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Scripted:
    """Answers from a list, the last one for ever; each reading takes `cost` seconds."""

    def __init__(self, name, answers, clock=None, cost=0.0):
        self.name = name
        self.answers = list(answers)
        self.clock = clock
        self.cost = cost
        self.calls: list[float] = []
        self.closed = 0

    def sample(self):
        if self.clock is not None:
            self.calls.append(self.clock.now)
            self.clock.now += self.cost
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self):
        self.closed += 1


def drive(sampler: Sampler, clock: Clock, until: float) -> None:
    while clock.now < until:
        clock.now += sampler.tick()


@pytest.mark.parametrize(
    ("due", "interval", "not_before", "expected"),
    [
        (10.0, 1.0, 10.0, 11.0),
        (10.0, 1.0, 10.4, 11.0),
        (10.0, 1.0, 13.2, 14.0),
        (10.0, 1.0, 13.0, 13.0),
        (10.0, 0.25, 10.5, 10.5),
    ],
)
def test_the_next_reading_lies_on_the_grid(due, interval, not_before, expected):
    assert next_due(due, interval, not_before) == pytest.approx(expected)


def test_back_off_doubles_from_the_interval_to_the_ceiling():
    assert [back_off(1.0, n) for n in (1, 2, 3, 5, 6, 7, 500)] == [1, 2, 4, 16, 30, 30, 30]
    assert back_off(60.0, 1) == 60.0


def test_slow_readings_leave_grid_points_out_and_never_drift():
    clock = Clock()
    probe = Scripted("host", [Reading(DATA)], clock, cost=1.3)
    drive(Sampler([(probe, 1.0)], clock=clock), clock, 110.0)
    assert probe.calls == pytest.approx([100, 102, 104, 106, 108])


def test_each_probe_keeps_its_own_interval():
    clock = Clock()
    fast = Scripted("gpu", [Reading(())], clock)
    slow = Scripted("host", [Reading(DATA)], clock)
    drive(Sampler([(slow, 1.0), (fast, 0.25)], clock=clock), clock, 102.0)
    assert slow.calls == pytest.approx([100, 101])
    assert fast.calls == pytest.approx([100 + k / 4 for k in range(8)])


@pytest.mark.parametrize("error", [ProbeError("nobody home"), OSError("nobody home")])
def test_a_failed_reading_carries_no_data(error):
    clock = Clock()
    probe = Scripted("host", [Reading(DATA), error], clock)
    sampler = Sampler([(probe, 1.0)], clock=clock, wall=lambda: 5000.0 + clock.now)
    sampler.tick()
    assert sampler.snapshots()[0].data == DATA
    clock.now = 101.0
    sampler.tick()
    (snapshot,) = sampler.snapshots()
    assert snapshot.data is None
    health = snapshot.health
    assert (health.ok, health.error, health.failures) == (False, "nobody home", 1)
    assert (health.last_success, health.taken) == (5100.0, 5101.0)


def test_a_partial_reading_keeps_its_data_and_counts_as_failed():
    clock = Clock()
    probe = Scripted("gpu", [Reading((), ("GPU 1: lost",))], clock)
    sampler = Sampler([(probe, 1.0)], clock=clock)
    drive(sampler, clock, 103.0)
    (snapshot,) = sampler.snapshots()
    assert snapshot.data == ()
    assert (snapshot.health.ok, snapshot.health.error) == (False, "GPU 1: lost")
    assert (snapshot.health.failures, snapshot.health.last_success) == (3, None)
    assert probe.calls == pytest.approx([100, 101, 102])


def test_a_probe_with_nothing_to_read_is_asked_ever_less_and_recovers_its_rate():
    clock = Clock()
    absent = [ProbeError("absent")] * 4
    probe = Scripted("gpu", [*absent, Reading(())], clock)
    drive(Sampler([(probe, 1.0)], clock=clock), clock, 118.0)
    assert probe.calls == pytest.approx([100, 101, 103, 107, 115, 116, 117])


def test_ready_only_after_every_probe_reported_in_health_or_not():
    clock = Clock()
    sampler = Sampler(
        [(Scripted("host", [Reading(DATA)]), 1.0), (Scripted("gpu", [ProbeError("no GPU")]), 1.0)],
        clock=clock,
    )
    assert sampler.ready() == (False, "no reading yet: host, gpu")
    sampler.tick()
    assert sampler.ready() == (True, "host: ok; gpu: no GPU")


def test_a_stalled_poller_loses_readiness_and_its_data():
    clock = Clock()
    sampler = Sampler([(Scripted("host", [Reading(DATA)], clock), 1.0)], clock=clock)
    sampler.tick()
    clock.now = 106.0
    assert sampler.ready()[0]
    assert sampler.snapshots()[0].data == DATA
    clock.now = 106.1
    assert sampler.ready() == (False, "poller stalled, overdue: host")
    (snapshot,) = sampler.snapshots()
    assert (snapshot.data, snapshot.health.ok) == (None, False)
    assert snapshot.health.error == "reading overdue for 5.1 s"
    sampler.tick()
    assert sampler.ready()[0]
    assert sampler.snapshots()[0].data == DATA


def test_a_short_interval_is_not_called_stalled_within_a_second():
    clock = Clock()
    sampler = Sampler([(Scripted("gpu", [Reading(())], clock), 0.1)], clock=clock)
    sampler.tick()
    clock.now = 101.0
    assert sampler.ready()[0]
    clock.now = 101.2
    assert not sampler.ready()[0]


def test_the_poller_reads_closes_and_leaves_no_thread():
    probe = Scripted("host", [Reading(DATA)])
    before = threading.active_count()
    poller = Poller(Sampler([(probe, 0.1)]))
    poller.start()
    assert poller.wait_for(2, 30.0)
    assert poller.stop(30.0)
    assert (threading.active_count(), probe.closed) == (before, 1)
    assert not poller.crashed()


def test_a_hung_reading_is_reported_and_does_not_hold_up_the_end():
    release = threading.Event()

    class Hung(Scripted):
        def sample(self):
            release.wait()
            return super().sample()

    poller = Poller(Sampler([(Hung("gpu", [Reading(())]), 0.1)]))
    poller.start()
    assert not poller.wait_for(1, 0.01)
    assert not poller.stop(0.01)
    release.set()
    assert poller.stop(30.0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_a_probe_ends_the_poller_and_closes_the_probes():
    probe = Scripted("host", [ZeroDivisionError("bug")])
    poller = Poller(Sampler([(probe, 0.1)]))
    poller.start()
    assert poller.wait_for(1, 30.0)
    poller.wait()
    assert poller.stop(30.0)
    assert poller.crashed()
    assert probe.closed == 1
