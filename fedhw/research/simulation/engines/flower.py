"""Flower's simulation engine, with the ServerApp and the ClientApp that ship.

Each writer is a node with a home directory of its own. The coordinator signs the release and offers
it; a device adopts it as any device does, and then runs the trial of its writer on the release that
arrived. Outcomes are not sent: the simulation reads them from the homes.
"""

import logging
import os
import pickle
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import structlog
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from fedhw.errors import InputError
from fedhw.release.registry import Registry
from fedhw.release.release import Release
from fedhw.release.signing import ReleaseKey
from fedhw.research.simulation.engines.engine import Engine
from fedhw.research.simulation.trial import Outcome, Trial
from fedhw.system.atomic import replacing
from fedhw.system.clock import Clock, SystemClock
from fedhw_client.agent.adoption import Adoption
from fedhw_client.agent.agent import Agent
from fedhw_client.fleet.client_app import client_app
from fedhw_client.store.corrections import Store
from fedhw_client.store.device_home import Home as DeviceHome
from fedhw_server.leader.server_app import run_server_app
from fedhw_server.store.coordinator_home import Home
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.settings import ReportPolicy

POLL_SECONDS = 0.1
"""Seconds between two checks of what is done."""

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

MOST = 1000
"""The most writers; each has a home with a copy of the release on the disk."""

OUTCOME, FAILURE = "outcome.npz", "failure.txt"


@dataclass(frozen=True)
class FlowerEngine(Engine):
    """Runs a fleet on Flower's simulation engine, which has an actor for each processor."""

    clock: Clock = SystemClock()

    def run(self, trial: Trial, cohorts: Sequence[range]) -> Iterator[tuple[range, Outcome]]:
        """Yield each cohort with its outcome.

        Raises InputError for more writers than `MOST`, and when one fails or Flower ends early.
        """
        waiting = list(cohorts)
        writers = [writer for cohort in cohorts for writer in cohort]
        if len(writers) > MOST:
            raise InputError(
                f"writers: {len(writers)} are more than the {MOST} devices that --engine flower "
                "simulates; give fewer, or leave the engine out"
            )
        with tempfile.TemporaryDirectory(prefix="fedhw-flower-") as directory:
            place = _Place(Path(directory))
            key = place.prepare(trial)
            with _quiet(), _simulated(place, key, writers) as simulation:
                while waiting:
                    is_over = not simulation.is_alive()
                    place.check()
                    for cohort in [c for c in waiting if place.is_done(c)]:
                        waiting.remove(cohort)
                        yield cohort, place.outcome(cohort)
                    if waiting and is_over:
                        raise InputError(
                            "engine: Flower ended before every writer was done; give the same "
                            "command again to continue"
                        )
                    self.clock.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class _Place:
    """The directory with the homes of the coordinator and of all devices."""

    directory: Path

    @property
    def coordinator(self) -> Home:
        return Home(self.directory / "coordinator")

    @property
    def trial(self) -> Path:
        return self.directory / "trial.pickle"

    def device(self, writer: int) -> DeviceHome:
        return DeviceHome(self.directory / "devices" / str(writer))

    def prepare(self, trial: Trial) -> str:
        """Set up a coordinator with the release published; return its public key."""
        home = self.coordinator
        home.directory.mkdir()
        key = ReleaseKey.create(home.release_key)
        Registry(home.releases, key).publish(trial.release.directory)
        at_home = replace(trial.release, directory=trial.release.directory.resolve())
        self.trial.write_bytes(pickle.dumps(replace(trial, release=at_home)))
        return key.public

    def check(self) -> None:
        """Raise InputError when a device has failed."""
        for failure in self.directory.glob(f"devices/*/{FAILURE}"):
            raise InputError(f"engine: a device failed: {failure.read_text(encoding='utf-8')}")

    def is_done(self, cohort: range) -> bool:
        return all((self.device(writer).directory / OUTCOME).exists() for writer in cohort)

    def outcome(self, cohort: range) -> Outcome:
        homes = (self.device(writer).directory for writer in cohort)
        return Outcome.joined([Outcome.load(home / OUTCOME) for home in homes])


@contextmanager
def _quiet() -> Iterator[None]:
    """Log nothing but errors meanwhile."""
    os.environ |= QUIET
    loggers = [logging.getLogger(name) for name in ("flwr", "ray")]
    levels, before = [logger.level for logger in loggers], structlog.get_config()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        yield
    finally:
        structlog.configure(**before)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _simulated(place: _Place, key: str, writers: Sequence[int]) -> Iterator[threading.Thread]:
    """Run a simulation of these writers until the block ends."""
    over = threading.Event()
    simulation = threading.Thread(
        target=run_simulation,
        args=(_coordinator(place, writers, over), Devices(place, key, writers), len(writers)),
        kwargs={"backend_config": {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}},
        daemon=True,
    )
    simulation.start()
    try:
        yield simulation
    finally:
        over.set()
        simulation.join()


def _coordinator(place: _Place, writers: Sequence[int], over: threading.Event) -> ServerApp:
    """The ServerApp that ships, with the simulated nodes enrolled."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        while len(nodes := list(grid.get_node_ids())) < len(writers):
            if over.wait(POLL_SECONDS):
                return
        fleet = Fleet(place.coordinator.database)
        fleet.settings.agree(window=ReportPolicy().window)
        for node in nodes:
            name = f"node-{node}"
            fleet.members.enrol(name, fleet.members.invite(name), os.urandom(32), name)
            fleet.members.set_node(name, node)
        run_server_app(grid, place.coordinator, over.is_set)

    return app


class Devices(ClientApp):
    """The ClientApp that ships, for whichever device a message is addressed to."""

    def __init__(self, place: _Place, key: str, writers: Sequence[int]) -> None:
        super().__init__()
        self._place = place
        self._key = key
        self._writers = writers

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer for a device, and run its writer's trial as soon as it runs the release."""
        torch.set_num_threads(1)
        writer = self._writers[int(context.node_config["partition-id"])]
        home = self._place.device(writer)
        with home.occupied():
            try:
                return self._answer(message, context, home, writer)
            except Exception as error:
                # At once, since the engine looks for it all the time.
                with replacing(home.directory / FAILURE) as unfinished:
                    unfinished.write_text(str(error) or type(error).__name__, encoding="utf-8")
                raise

    def _answer(self, message: Message, context: Context, home: DeviceHome, writer: int) -> Message:
        if not home.release.is_dir():
            return client_app(Adoption(None, home, self._key))(message, context)
        release = Release.load(home.release)
        agent = Agent(release, Store(home.database))
        try:
            reply = client_app(Adoption(agent, home, self._key))(message, context)
        finally:
            agent.close()
        if not (home.directory / OUTCOME).exists():
            # A device receives the release without its test characters.
            whole = replace(release, directory=_trial(self._place).release.directory)
            replace(_trial(self._place), release=whole).run([writer]).save(home.directory / OUTCOME)
        return reply


@cache
def _trial(place: _Place) -> Trial:
    trial: Trial = pickle.loads(place.trial.read_bytes())
    return trial
