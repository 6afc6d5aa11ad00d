"""Signals that ask a program to end."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn


def stop_on_signals(stop: Callable[[], object]) -> None:
    """Call `stop` in the running event loop on SIGTERM and SIGINT, however often they come.

    Also after the loop has ended they do not end the process, which is closing what it has open.
    """
    loop = asyncio.get_running_loop()

    def handle(number: int, frame: FrameType | None) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, once, so that the block is left in good order.

    Afterwards it is ignored, since the program is ending.
    """

    came = False

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        nonlocal came
        came = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        if not came:  # else blocks around this one end in good order, too
            signal.signal(signal.SIGTERM, before)
