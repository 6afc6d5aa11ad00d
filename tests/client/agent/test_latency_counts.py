import threading
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.privacy.statistics import LATENCIES
from fedhw.system.clock import SettableClock
from fedhw_client.agent.latency_counts import KEPT_WINDOWS, LatencyCounts

seconds = st.floats(0, 10) | st.sampled_from(LATENCIES)


@given(st.lists(st.tuples(st.integers(0, 1), seconds)), st.integers(1, 86_400))
def test_every_recognition_counts_once_in_its_window_and_bucket(observed, length):
    clock = SettableClock(wall=0.0)
    usage = LatencyCounts(length, clock=clock)
    for step, took in observed:
        clock.advance(step * length)
        usage.observe(took)
    newest = int(clock.wall() // length)
    for window in range(max(0, newest - 1), newest + 1):
        moments = [sum(step for step, _ in observed[: i + 1]) for i in range(len(observed))]
        own = [took for at, (_, took) in zip(moments, observed, strict=True) if at == window]
        expected = [0] * (len(LATENCIES) + 1)
        for took in own:
            expected[bisect_left(LATENCIES, took)] += 1
        assert usage.latencies(window) == tuple(expected)


@pytest.mark.parametrize("bucket", range(len(LATENCIES)))
def test_a_bound_belongs_to_its_bucket(bucket):
    usage = LatencyCounts(60, clock=SettableClock(wall=0.0))
    usage.observe(LATENCIES[bucket])
    usage.observe(LATENCIES[bucket] * 1.01)
    counts = usage.latencies(0)
    assert (counts[bucket], counts[bucket + 1], sum(counts)) == (1, 1, 2)


def test_old_windows_are_forgotten_and_unknown_ones_are_empty():
    clock = SettableClock(wall=0.0)
    usage = LatencyCounts(10, clock=clock)
    for _ in range(KEPT_WINDOWS + 1):
        usage.observe(0.001)
        clock.advance(10)
    assert [sum(usage.latencies(window)) for window in range(KEPT_WINDOWS + 2)] == [
        0,
        *[1] * KEPT_WINDOWS,
        0,
    ]


def test_a_clock_that_is_set_back_is_counted_by():
    clock = SettableClock(wall=1000.0)
    usage = LatencyCounts(10, clock=clock)
    for _ in range(2 * KEPT_WINDOWS):
        usage.observe(0.001)
        clock.advance(10)
    clock.set_wall(0.0)
    usage.observe(0.001)
    assert sum(usage.latencies(0)) == 1


def test_threads_lose_nothing():
    usage = LatencyCounts(60, clock=SettableClock(wall=0.0))

    def observe() -> None:
        for _ in range(2000):
            usage.observe(0.001)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(usage.latencies(0)) == 8000
