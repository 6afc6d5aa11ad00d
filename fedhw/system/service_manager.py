"""Messages to systemd that a program is ready, alive or stopping (sd_notify(3)).

Without `NOTIFY_SOCKET` in the environment nothing is sent.
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
    # The program works the same without a listener.
    with socket.socket(socket.AF_UNIX, kind) as channel, suppress(OSError):
        channel.connect(address)
        channel.send(state.encode())


def watchdog_period() -> float | None:
    """Return the seconds in which systemd expects a sign of life, None where it expects none."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(
        os.getpid()
    ):
        return None
    return int(microseconds) / 1e6
