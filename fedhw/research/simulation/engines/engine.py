"""What every engine does: work on cohorts, and hand over each outcome as it is done."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from fedhw.research.simulation.trial import Outcome, Trial


class Engine(ABC):
    """Works on the cohorts of a trial; which engine it is changes no outcome."""

    @abstractmethod
    def run(self, trial: Trial, cohorts: Sequence[range]) -> Iterator[tuple[range, Outcome]]:
        """Yield each cohort, of which there is one at least, with its outcome, in any order."""
