"""Time, handed in: nothing else in the product reads the time or sleeps.

A clock is a constructor argument and nothing else, so no flag, variable or message can change it.
TLS, SQLite and gRPC keep real time.
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
        """Return seconds since some moment; never less than before."""

    def processor(self) -> float:
        """Return the processor time of this thread in seconds."""

    def sleep(self, seconds: float) -> None:
        """Wait so many seconds."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait for an event, at most so many seconds; returns whether it is set."""


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
        """Wait so many seconds."""
        time.sleep(seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait for an event, at most so many seconds; returns whether it is set."""
        return event.wait(None if math.isinf(seconds) else seconds)


class SettableClock:
    """A clock that stands still until it is moved: for simulations and tests.

    Who sleeps or waits is woken as soon as the clock has been moved far enough.

    >>> clock = SettableClock(wall=1_000.0)
    >>> clock.advance(60.0)
    >>> clock.wall(), clock.monotonic()
    (1060.0, 60.0)
    >>> clock.set_wall(500.0)  # somebody has set the machine's clock back
    >>> clock.wall(), clock.monotonic()
    (500.0, 60.0)
    """

    _POLL_SECONDS = 0.002
    """How often a waiting thread looks at its event."""

    def __init__(self, wall: float = 1_750_000_000.0) -> None:
        self._wall = wall
        self._monotonic = 0.0
        self._processor = 0.0
        self._moved = threading.Condition()

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass; raises ValueError for less than none."""
        if not seconds >= 0:
            raise ValueError(f"seconds: {seconds} would turn time back; use set_wall")
        with self._moved:
            self._wall += seconds
            self._monotonic += seconds
            self._moved.notify_all()

    def work(self, seconds: float) -> None:
        """Let so much processor time be used, by every thread."""
        with self._moved:
            self._processor += seconds

    def set_wall(self, wall: float) -> None:
        """Set the Unix time, back or forth, as a person or a time server would."""
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
        """Wait until the clock has been moved so many seconds."""
        with self._moved:
            until = self._monotonic + seconds
            self._moved.wait_for(lambda: self._monotonic >= until)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait for an event, or until the clock has been moved so many seconds."""
        until = self._monotonic + seconds
        while not event.is_set() and self._monotonic < until:
            event.wait(self._POLL_SECONDS)
        return event.is_set()
