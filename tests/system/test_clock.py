import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedhw.system.clock import Clock, SettableClock, SystemClock


@pytest.fixture(params=[SystemClock, SettableClock])
def clock(request) -> Clock:
    return request.param()


def test_an_event_that_is_set_ends_every_wait(clock):
    event = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(clock.wait, event, math.inf)
        event.set()
        assert waiting.result(timeout=10) is True


def test_nobody_waits_for_no_time(clock):
    clock.sleep(0.0)
    assert clock.wait(threading.Event(), 0.0) is False


def test_time_goes_forward(clock):
    before = clock.wall(), clock.monotonic(), clock.processor()
    assert (clock.wall(), clock.monotonic(), clock.processor()) >= before


def test_who_waits_is_woken_when_the_clock_has_been_moved_far_enough():
    clock = SettableClock()
    with ThreadPoolExecutor(2) as pool:
        sleeping = pool.submit(clock.sleep, 100.0)
        waiting = pool.submit(clock.wait, threading.Event(), 100.0)
        while not (sleeping.running() and waiting.running()):
            pass
        # One of them may begin only now, so the clock is moved until both have had their time.
        while not (sleeping.done() and waiting.done()):
            clock.advance(50.0)
        assert waiting.result() is False
    assert clock.monotonic() >= 100.0


def test_setting_the_wall_clock_back_shortens_no_wait():
    clock = SettableClock(wall=1_000.0)
    clock.set_wall(10.0)
    assert (clock.wall(), clock.monotonic()) == (10.0, 0.0)
    with pytest.raises(ValueError, match="use set_wall"):
        clock.advance(-1.0)
