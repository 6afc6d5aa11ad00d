"""How background work leaves the processor to others."""

import os
import sys
import threading
from collections.abc import Callable

from fedhw.system.clock import Clock

PROCESSOR_SHARE = 0.25
"""Of one core, what learning takes while it keeps up with the corrections."""

LONGEST_STRETCH_SECONDS = 0.01
"""Processor time that one pause makes up for at most; the rest was another thread's."""


class Throttle:
    """Makes whoever calls `breathe` a few times in its work pause most of the time.

    While `is_hurried` says so, it only lets other threads go first.
    """

    def __init__(self, is_hurried: Callable[[], bool], clock: Clock) -> None:
        self._is_hurried = is_hurried
        self._clock = clock
        self._last_breath = 0.0

    def breathe(self) -> None:
        """Leave the processor to others for a while."""
        worked = self._clock.processor() - self._last_breath
        pause = min(max(worked, 0.0), LONGEST_STRETCH_SECONDS) * (1 / PROCESSOR_SHARE - 1)
        self._clock.sleep(0.0 if self._is_hurried() else pause)
        self._last_breath = self._clock.processor()


def step_back() -> None:
    """Let every other thread go before this one, where the system can."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
