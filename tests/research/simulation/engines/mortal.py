"""Writers who go wrong; on their own, so that other processes can import them."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.research.simulation.population import SyntheticPopulation


@dataclass(frozen=True)
class Mortal(SyntheticPopulation):
    """Whoever lets the third writer write is killed, the first so many `times`."""

    marks: Path = Path()
    times: int = 1

    def write(self, writers: Sequence[int]) -> WriterSet:
        if 2 in writers and len(list(self.marks.iterdir())) < self.times:
            (self.marks / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(writers)


@dataclass(frozen=True)
class Unable(SyntheticPopulation):
    """The third writer cannot write."""

    def write(self, writers: Sequence[int]) -> WriterSet:
        if 2 in writers:
            raise InputError("data: the third writer has lost the pen; give another")
        return super().write(writers)
