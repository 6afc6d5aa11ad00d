"""Keeps background work from slowing down recognition."""

import os
import sys
import threading
from collections.abc import Callable

from fedhw.system.clock import Clock

PROCESSOR_SHARE = 0.25
"""Share of one core that learning takes while it keeps up with the corrections."""

LONGEST_STRETCH_SECONDS = 0.01
"""Most processor time that one pause makes up for; more was used by another thread."""


class Throttle:
    """Slows down a task that calls `breathe` again and again, to `PROCESSOR_SHARE` of a core.

    While `is_hurried` returns True, a call only yields to other threads.
    """

    def __init__(self, is_hurried: Callable[[], bool], clock: Clock) -> None:
        self._is_hurried = is_hurried
        self._clock = clock
        self._last_breath = 0.0

    def breathe(self) -> None:
        """Pause in proportion to the processor time since the last pause."""
        worked = self._clock.processor() - self._last_breath
        pause = min(max(worked, 0.0), LONGEST_STRETCH_SECONDS) * (1 / PROCESSOR_SHARE - 1)
        self._clock.sleep(0.0 if self._is_hurried() else pause)
        self._last_breath = self._clock.processor()


def step_back() -> None:
    """Give this thread the lowest priority, where the system can."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
