"""Writers who kill; on its own, so that other processes can import it."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedhw.data.writers import WriterSet
from fedhw.simulation.population import SyntheticPopulation


@dataclass(frozen=True)
class Mortal(SyntheticPopulation):
    """Whoever lets its third writer write for the first time is killed; `times` such times."""

    marks: Path = Path()
    times: int = 1

    def write(self, writers: Sequence[int]) -> WriterSet:
        if 2 in writers and len(list(self.marks.iterdir())) < self.times:
            (self.marks / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(writers)
