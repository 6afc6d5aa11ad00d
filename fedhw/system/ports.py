"""TCP ports on which a program listens."""

import os
import socket

from fedhw.errors import InputError


def listen(option: str, port: int, host: str = "127.0.0.1") -> socket.socket:
    """Return a socket that listens on a port; port 0 picks a free one.

    Raises InputError, which names the option of the port, when it cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(
            f"{option}: {port} on {host} cannot be used ({os.strerror(error.errno or 0)}); give "
            "one that is free"
        ) from None


def free_port(option: str, port: int, host: str = "127.0.0.1") -> int:
    """Return a port that another program can use next; raises InputError like `listen`."""
    with listen(option, port, host) as listener:
        return int(listener.getsockname()[1])
