"""How much memory a process and its children take."""

import subprocess
import time
from pathlib import Path
from typing import Any

BETWEEN = 0.2
"""Seconds between two looks at the memory."""


def proportional(pid: int) -> int:
    """Bytes of this process and its children; what several share is shared out among them."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0  # it has just ended
    own = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return own * 1024 + sum(proportional(int(child)) for child in children)


def most(process: "subprocess.Popen[Any]") -> int:
    """Wait for the end of a process and return the most bytes at once of it and its children."""
    most = 0
    while process.poll() is None:
        most = max(most, proportional(process.pid))
        time.sleep(BETWEEN)
    return most
