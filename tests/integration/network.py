"""Two networks that nobody else is in, joined by one wire that may be cut."""

import math
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.parts import need

SERVER, DEVICES = "10.213.0.1", "10.213.0.2"
"""The two ends' addresses; nothing else of the machine sees them."""


class Wire:
    """What runs behind the commands `of_server` and `of_devices` is in the two networks."""

    def __init__(self) -> None:
        self._ends = [f"fedhw-{os.getpid()}-{end}" for end in ("server", "devices")]
        self.cut_at = math.inf
        self.of_server, self.of_devices = (("ip", "netns", "exec", end) for end in self._ends)

    def lay(self) -> None:
        """Make the networks; raises CalledProcessError where that is not allowed."""
        server, devices = self._ends
        for end in self._ends:
            _ip("netns", "add", end)
        pair = ("link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", devices)
        _ip("-netns", server, *pair)
        for end, address in zip(self._ends, (SERVER, DEVICES), strict=True):
            _ip("-netns", end, "address", "add", f"{address}/30", "dev", "wire")
            for link in ("lo", "wire"):
                _ip("-netns", end, "link", "set", link, "up")

    def cut(self) -> None:
        """Let nothing through from now on; neither side is told."""
        self.cut_at = time.monotonic()
        _ip("-netns", self._ends[0], "link", "set", "wire", "down")

    def mend(self) -> None:
        """Let everything through again."""
        _ip("-netns", self._ends[0], "link", "set", "wire", "up")

    def remove(self) -> None:
        """Take the networks away."""
        for end in self._ends:
            subprocess.run(["ip", "netns", "delete", end], capture_output=True, check=False)


@contextmanager
def wired() -> Iterator[Wire]:
    """Lay a wire."""
    need("ip")
    need("network namespaces")
    wire = Wire()
    try:
        wire.lay()
        yield wire
    finally:
        wire.remove()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=True, text=True)
