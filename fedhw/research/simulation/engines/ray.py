"""Run cohorts in Ray actors, on this machine or on a cluster (Moritz et al. 2018)."""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from fedhw.errors import InputError
from fedhw.research.simulation.engines.engine import Engine
from fedhw.research.simulation.trial import Outcome, Trial

MAX_TRIES = 3
"""How often a failed actor is restarted, and a cohort is tried again."""

CONNECT_TIMEOUT_SECONDS = 5.0
"""Seconds in which a cluster must answer."""


@dataclass(frozen=True)
class RayEngine(Engine):
    """Runs cohorts in an actor for each processor of the cluster at `address`, or of this machine.

    The cluster's machines need fedhw but no files: the trial is sent to them. Raises InputError
    where no cluster answers.
    """

    address: str | None = None
    actors: int | None = None

    def __post_init__(self) -> None:
        if self.address not in (None, "auto"):
            _check_answers(str(self.address))

    def run(self, trial: Trial, cohorts: Sequence[range]) -> Iterator[tuple[range, Outcome]]:
        """Yield each cohort with its outcome; raises InputError where Ray does not start."""
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
        try:
            ray.init(
                self.address or "local",
                log_to_driver=False,
                include_dashboard=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:  # the only type that Ray raises when its processes are late
            raise _silent(self.address, error) from None
        try:
            shared = [ray.put(trial)]
            free = min(self.actors or _processors(), len(cohorts))
            actor: Any = ray.remote(num_cpus=1, max_restarts=MAX_TRIES, max_task_retries=MAX_TRIES)(
                Worker
            )
            workers = [actor.remote() for _ in range(free)]
            waiting = iter(cohorts)
            at_work = {w.run.remote(shared, c): w for w, c in zip(workers, waiting, strict=False)}
            while at_work:
                done, _ = ray.wait(list(at_work))
                worker = at_work.pop(done[0])
                for cohort in waiting:
                    at_work[worker.run.remote(shared, cohort)] = worker
                    break
                yield ray.get(done[0])
        except RayTaskError as error:
            raise error.cause from None
        except RayActorError:
            raise InputError(
                "engine: an actor was killed again and again, perhaps for want of memory; give the "
                "same command again to continue"
            ) from None
        finally:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise InputError where nothing listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _silent(address, error) from None


def _silent(address: str | None, error: Exception) -> InputError:
    if address is None:
        return InputError(
            f"engine: Ray did not start ({error}); try again when the machine is less busy, or "
            "leave the engine out"
        )
    return InputError(
        f"address: no Ray cluster answers at {address} ({error}); start one there, or leave the "
        "address out"
    )


def _processors() -> int:
    found = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
    if found == 0:
        raise InputError("address: the cluster has no processors; add a machine to it")
    return found


class Worker:
    """Runs one trial on one cohort after another."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._trial: Trial | None = None

    def run(self, shared: "list[ray.ObjectRef[Trial]]", cohort: range) -> tuple[range, Outcome]:
        """Return the cohort with its outcome; a restarted actor fetches the trial again."""
        self._trial = self._trial or ray.get(shared[0])
        return cohort, self._trial.run(cohort)
