import threading
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.privacy.statistics import LATENCIES
from fedhw_client.agent.latency_counts import KEPT, LatencyCounts

seconds = st.floats(0, 10) | st.sampled_from(LATENCIES)


@given(st.lists(st.tuples(st.integers(0, 1), seconds)), st.integers(1, 86_400))
def test_every_recognition_counts_once_in_its_window_and_bucket(observed, length):
    now = 0.0
    usage = LatencyCounts(length, clock=lambda: now)
    for step, took in observed:
        now += step * length
        usage.observe(took)
    newest = int(now // length)
    for window in range(max(0, newest - 1), newest + 1):
        moments = [sum(step for step, _ in observed[: i + 1]) for i in range(len(observed))]
        own = [took for at, (_, took) in zip(moments, observed, strict=True) if at == window]
        expected = [0] * (len(LATENCIES) + 1)
        for took in own:
            expected[bisect_left(LATENCIES, took)] += 1
        assert usage.latencies(window) == tuple(expected)


@pytest.mark.parametrize("bucket", range(len(LATENCIES)))
def test_a_bound_belongs_to_its_bucket(bucket):
    usage = LatencyCounts(60, clock=lambda: 0.0)
    usage.observe(LATENCIES[bucket])
    usage.observe(LATENCIES[bucket] * 1.01)
    counts = usage.latencies(0)
    assert (counts[bucket], counts[bucket + 1], sum(counts)) == (1, 1, 2)


def test_old_windows_are_forgotten_and_unknown_ones_are_empty():
    now = 0.0
    usage = LatencyCounts(10, clock=lambda: now)
    for window in range(KEPT + 1):
        now = window * 10.0
        usage.observe(0.001)
    assert [sum(usage.latencies(window)) for window in range(KEPT + 2)] == [0, *[1] * KEPT, 0]


def test_a_clock_that_is_set_back_is_counted_by():
    now = 1000.0
    usage = LatencyCounts(10, clock=lambda: now)
    for _ in range(2 * KEPT):
        usage.observe(0.001)
        now += 10
    now = 0.0
    usage.observe(0.001)
    assert sum(usage.latencies(0)) == 1


def test_threads_lose_nothing():
    usage = LatencyCounts(60, clock=lambda: 0.0)

    def observe() -> None:
        for _ in range(2000):
            usage.observe(0.001)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(usage.latencies(0)) == 8000
