import threading

import pytest

from fedhw.system.clock import SettableClock
from fedhw_client.agent.throttle import LONGEST_STRETCH_SECONDS, PROCESSOR_SHARE, Throttle


class Recording(SettableClock):
    """Notes how long somebody sleeps, and lets it pass."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.mark.parametrize("worked", [0.0, 0.001, LONGEST_STRETCH_SECONDS])
def test_work_takes_its_share_of_a_core(worked):
    clock = Recording()
    throttle = Throttle(lambda: False, clock)
    clock.work(worked)
    throttle.breathe()
    [slept] = clock.slept
    assert worked == pytest.approx(PROCESSOR_SHARE * (worked + slept))


def test_what_another_thread_worked_long_ago_is_not_made_up_for():
    clock = Recording()
    throttle = Throttle(lambda: False, clock)
    clock.work(1000.0)
    throttle.breathe()
    throttle.breathe()
    longest = LONGEST_STRETCH_SECONDS * (1 / PROCESSOR_SHARE - 1)
    assert clock.slept == pytest.approx([longest, 0.0])


def test_in_a_hurry_nothing_waits():
    clock = SettableClock()
    hurried = threading.Event()
    throttle = Throttle(hurried.is_set, clock)
    hurried.set()
    clock.work(1.0)
    throttle.breathe()  # would wait for ever: nobody moves the clock
