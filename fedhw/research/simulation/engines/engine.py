"""What every engine does: run a trial on cohorts, and yield each outcome when it is done."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from fedhw.research.simulation.trial import Outcome, Trial


class Engine(ABC):
    """Runs a trial on cohorts; the outcomes do not depend on the engine."""

    @abstractmethod
    def run(self, trial: Trial, cohorts: Sequence[range]) -> Iterator[tuple[range, Outcome]]:
        """Yield each cohort with its outcome, in any order; there is at least one cohort."""
