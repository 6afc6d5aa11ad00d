"""Counts of recognitions by window and latency."""

import threading
from bisect import bisect_left

from fedhw.privacy.statistics import LATENCIES
from fedhw.system.clock import Clock, SystemClock

KEPT_WINDOWS = 3
"""Windows that are kept: the present one, the one to report, and one to spare."""


class LatencyCounts:
    """Counts recognitions by latency and window of `length` seconds; safe for threads.

    The counts are in memory only: a killed agent loses those of the present window.

    >>> from fedhw.system.clock import SettableClock
    >>> usage = LatencyCounts(60, clock=SettableClock(wall=120.0))
    >>> usage.observe(0.0007)
    >>> usage.latencies(2)
    (0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    """

    def __init__(self, length: float, clock: Clock = SystemClock()) -> None:
        self._length = length
        self._clock = clock
        self._turn = threading.Lock()
        self._windows: dict[int, list[int]] = {}

    def observe(self, seconds: float) -> None:
        """Count a recognition that took so long."""
        window = int(self._clock.wall() // self._length)
        with self._turn:
            if window not in self._windows:
                self._windows[window] = [0] * (len(LATENCIES) + 1)
                # In order of insertion, not of time: the clock may have been set back.
                for old in list(self._windows)[:-KEPT_WINDOWS]:
                    del self._windows[old]
            self._windows[window][bisect_left(LATENCIES, seconds)] += 1

    def latencies(self, window: int) -> tuple[int, ...]:
        """Return the recognitions of a window by the buckets of `LATENCIES`."""
        with self._turn:
            return tuple(self._windows.get(window, [0] * (len(LATENCIES) + 1)))
