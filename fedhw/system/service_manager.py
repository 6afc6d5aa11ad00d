"""Tells systemd that the agent is ready, alive, and stopping (sd_notify(3)).

Without `NOTIFY_SOCKET` in the environment nobody listens and nothing is sent.
"""

import os
import socket
from contextlib import suppress


def notify(state: str) -> None:
    """Send a state such as READY=1."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    # Whether anybody listens is not the agent's affair.
    with socket.socket(socket.AF_UNIX, kind) as channel, suppress(OSError):
        channel.connect(address)
        channel.send(state.encode())


def watchdog_period() -> float | None:
    """Seconds between two signs of life that systemd asks for, None when it asks for none."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(
        os.getpid()
    ):
        return None
    return int(microseconds) / 1e6
