"""`fedhw` that keeps what it adds to sums in its home, and is killed in the step named there.

`contribute_and_die.py client --home HOME ...`; the step is the content of HOME/die-at. Where there
is HOME/lies, it adds the opposite of what it has learned, as much as it can.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhw.cli import main
from fedhw.improvement.contribution import Task
from fedhw_client.fleet.contributor import Contributor

DIE_AT, LIES = "die-at", "lies"


def added(home: Path, task: Task) -> Path:
    """Where a device keeps what it has added for a task."""
    return home / f"added-{task.digest.hex()}.npy"


def record(home: Path) -> None:
    contribution = Task.contribution

    def recording(self: Task, update: NDArray[np.float32]) -> NDArray[np.int64]:
        vector = contribution(self, -1e6 * update if (home / LIES).exists() else update)
        np.save(added(home, self), vector)
        return vector

    Task.contribution = recording  # type: ignore[method-assign]


def die_in(step: str, place: Path) -> None:
    original: Callable[..., Any] = getattr(Contributor, step)

    @wraps(original)
    def taken(*arguments: object) -> object:
        if place.exists() and place.read_text(encoding="ascii") == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(Contributor, step, taken)


if __name__ == "__main__":
    home = Path(sys.argv[sys.argv.index("--home") + 1])
    record(home)
    for step in ("advertise", "share", "mask", "reveal"):
        die_in(step, home / DIE_AT)
    main()
