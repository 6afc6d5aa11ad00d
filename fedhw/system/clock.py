"""Clocks: what decides by the time gets it from one.

A clock is always a constructor argument, so no flag, environment variable or message can change it.
TLS, SQLite and gRPC use real time.
"""

import math
import threading
import time
from typing import Protocol

DAY_SECONDS = 86_400.0


class Clock(Protocol):
    """Tells the time and waits; the methods may be called from any thread."""

    def wall(self) -> float:
        """Return the Unix time in seconds; it may jump."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment; they never decrease."""

    def processor(self) -> float:
        """Return the processor time of this thread in seconds."""

    def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait for an event, at most some seconds; return whether it is set."""


class SystemClock:
    """The clock of the machine."""

    def wall(self) -> float:
        """Return the Unix time in seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds since the machine started."""
        return time.monotonic()

    def processor(self) -> float:
        """Return the processor time of this thread in seconds."""
        return time.thread_time()

    def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        time.sleep(seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait for an event, at most some seconds; return whether it is set."""
        return event.wait(None if math.isinf(seconds) else seconds)


class SettableClock:
    """A clock that stands still until it is moved: for simulations and tests.

    A thread that sleeps or waits is woken as soon as the clock has been moved far enough.

    >>> clock = SettableClock(wall=1_000.0)
    >>> clock.advance(60.0)
    >>> clock.wall(), clock.monotonic()
    (1060.0, 60.0)
    >>> clock.set_wall(500.0)  # as when a machine's clock is set back
    >>> clock.wall(), clock.monotonic()
    (500.0, 60.0)
    """

    _POLL_SECONDS = 0.002
    """How often a waiting thread checks its event."""

    def __init__(self, wall: float = 1_750_000_000.0) -> None:
        self._wall = wall
        self._monotonic = 0.0
        self._processor = 0.0
        self._moved = threading.Condition()

    def advance(self, seconds: float) -> None:
        """Let some seconds pass; raises ValueError for a negative number."""
        if not seconds >= 0:
            raise ValueError(f"seconds: {seconds} would turn time back; use set_wall")
        with self._moved:
            self._wall += seconds
            self._monotonic += seconds
            self._moved.notify_all()

    def work(self, seconds: float) -> None:
        """Let every thread use some processor time."""
        with self._moved:
            self._processor += seconds

    def set_wall(self, wall: float) -> None:
        """Set the Unix time, forward or back, as a person or a time server would."""
        with self._moved:
            self._wall = wall

    def wall(self) -> float:
        """Return the Unix time in seconds."""
        return self._wall

    def monotonic(self) -> float:
        """Return the seconds that have passed."""
        return self._monotonic

    def processor(self) -> float:
        """Return the processor time in seconds."""
        return self._processor

    def sleep(self, seconds: float) -> None:
        """Wait until the clock has been moved some seconds."""
        with self._moved:
            until = self._monotonic + seconds
            self._moved.wait_for(lambda: self._monotonic >= until)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait for an event, or until the clock has been moved some seconds."""
        until = self._monotonic + seconds
        while not event.is_set() and self._monotonic < until:
            event.wait(self._POLL_SECONDS)
        return event.is_set()
