"""Run cohorts on this machine, in a process for each processor or in the caller's process."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import torch

from fedhw.errors import InputError
from fedhw.research.simulation.engines.engine import Engine
from fedhw.research.simulation.trial import Outcome, Trial


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class LocalEngine(Engine):
    """Runs cohorts in that many processes of one thread each; a single one is the caller's."""

    processes: int = 1

    def run(self, trial: Trial, cohorts: Sequence[range]) -> Iterator[tuple[range, Outcome]]:
        """Yield each cohort with its outcome; raises InputError when a process is killed."""
        if self.processes == 1:
            yield from ((cohort, trial.run(cohort)) for cohort in cohorts)
            return
        try:
            pool = ProcessPoolExecutor(
                min(self.processes, len(cohorts)),
                # A fork of a process that has threads, as torch has, may hang.
                multiprocessing.get_context("spawn"),
                _begin,
                # As bytes: of itself torch would send its tensors through shared memory, of which
                # a container may have little.
                (pickle.dumps(trial),),
            )
        except OSError as error:
            raise InputError(
                f"engine: there is no shared memory for processes ({error.strerror}); make "
                "/dev/shm larger"
            ) from None
        with pool:
            try:
                # Ctrl+C reaches children, too; they ignore it, since this process ends them.
                before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                futures = [pool.submit(_work, cohort) for cohort in cohorts]
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                for future in as_completed(futures):
                    yield future.result()
            except BrokenProcessPool:
                raise InputError(
                    "engine: a process was killed, perhaps for want of memory; give the same "
                    "command again to continue"
                ) from None
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


_trial: Trial


def _begin(trial: bytes) -> None:
    global _trial
    _trial = pickle.loads(trial)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(cohort: range) -> tuple[range, Outcome]:
    return cohort, _trial.run(cohort)
