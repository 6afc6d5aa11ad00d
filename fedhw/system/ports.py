"""TCP ports of this machine that a program listens on."""

import os
import socket

from fedhw.errors import InputError


def listen(option: str, port: int, host: str = "127.0.0.1") -> socket.socket:
    """Return a socket that listens on a port, a free one for 0.

    Raises InputError, which names the option that gave it, when the port cannot be used.
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
    """Return a port that something else may listen on next; raises what `listen` does."""
    with listen(option, port, host) as listener:
        return int(listener.getsockname()[1])
