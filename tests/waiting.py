"""Waiting for what must come, and a port that nobody uses."""

import socket
import time
from collections.abc import Callable

PATIENCE = 180.0
"""Seconds that anything may take on a busy machine; nobody waits so long where all is well."""


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds, and fail where it does not hold in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it has not come in {seconds:g} s"
        time.sleep(0.01)


def free_port() -> int:
    """Return a port of the loopback that was free just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
