"""Rounds of an improvement, of eight devices of which one is killed in each of the steps."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from flwr.serverapp import Grid

from fedhw.data.npz import save_npz
from fedhw.data.writers import WriterSet
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.improvement.contribution import Task
from fedhw.improvement.improvement import Improvement, Recipe
from fedhw.improvement.public import Public
from fedhw.privacy.ledger import Ledger
from fedhw.release.release import Release
from fedhw.release.signing import ReleaseKey
from fedhw_server.leader.secure_round import Summed, secure_sum
from fedhw_server.leader.superlink import SECRET, Address, running
from tests.integration.conftest import AgentProcess, Character, CoordinatorProcess
from tests.integration.contribute_and_die import DIE_AT, LIES, added
from tests.waiting import until

pytestmark = pytest.mark.superlink

NAMES = ("anna", "berta", "carl", "dora", "emil", "frida", "gert", "hanna")
EACH = 40
"""Characters that everybody has written."""

SURVIVORS = 5
DEADLINE = 40.0


class ContributingAgent(AgentProcess):
    """`fedhw client`; see `contribute_and_die.py`."""

    program = (str(Path(__file__).with_name("contribute_and_die.py")),)


@dataclass
class Running:
    """A fleet whose devices can be killed in a step."""

    coordinator: CoordinatorProcess
    agents: dict[str, ContributingAgent]

    def begin(self, name: str, *options: object) -> None:
        home = self.coordinator.home.with_name(name)
        self.agents[name] = ContributingAgent(home, "--least-cohort", SURVIVORS, *options)

    def die(self, **steps: str) -> None:
        for name, step in steps.items():
            (self.agents[name].home / DIE_AT).write_text(step, encoding="ascii")

    def begin_again(self, *names: str) -> None:
        """Start those that were killed, which they must have been."""
        for name in names:
            assert self.agents[name].ended() == -signal.SIGKILL
            (self.agents[name].home / DIE_AT).unlink()
            self.begin(name)

    @contextmanager
    def in_hand(self) -> Iterator[Grid]:
        """Take the place of the coordinator's ServerApp, which stands still from here on."""
        os.kill(self.coordinator.part("serverapp"), signal.SIGSTOP)
        home, at = self.coordinator.home, f"127.0.0.1:{self.coordinator.ports[1]}"
        environment = Path(f"/proc/{self.coordinator.part('superlink')}/environ").read_bytes()
        known = dict(entry.split(b"=", 1) for entry in environment.split(b"\0") if entry)
        secret = known[SECRET.encode()].decode()
        with running(Address(at, home / "tls" / "ca.crt", secret)) as (grid, _):
            yield grid

    def sum(self, grid: Grid, task: Task) -> Summed:
        """What all devices add to a task, once they are online."""
        with self.coordinator.fleet() as fleet:
            until(lambda: {*fleet.members.by_node()} <= {*grid.get_node_ids()}, 180)
            key = ReleaseKey.load(self.coordinator.home / "release.key")
            return secure_sum(grid, fleet.members.by_node(), task, key, DEADLINE)

    def added(self, task: Task, *names: str) -> np.ndarray:
        """The plain sum of what these devices have added."""
        vectors = [np.load(added(self.agents[name].home, task)) for name in names]
        total: np.ndarray = np.sum(vectors, axis=0)
        return total

    def paid(self, name: str) -> list[float]:
        return [each.rho for each in Ledger.open(self.agents[name].home / "ledger.db").rounds()]


@pytest.fixture
def fleet(tmp_path: Path, release_directory: Path, unseen_writers: WriterSet) -> Iterator[Running]:
    policy = ("--window", 3600, "--epsilon", 2, "--minimum-cohort", SURVIVORS)
    fleet = Running(CoordinatorProcess(tmp_path / "coordinator", *policy), {})
    try:
        fleet.coordinator.until_ready()
        fleet.coordinator.command("publish", release_directory)
        budget = ("--epsilon-per-day", 1e6, "--epsilon-in-all", 1e6)
        for name in NAMES:
            fleet.begin(name, "--enroll", fleet.coordinator.invite(name), *budget)
        for number, agent in enumerate(fleet.agents.values()):
            agent.until_ready()
            with agent.connect() as device:
                device.learn_many(written_by(unseen_writers, number))
        yield fleet
    finally:
        for agent in fleet.agents.values():
            agent.kill()
        fleet.coordinator.kill()


def written_by(writers: WriterSet, number: int) -> list[Character]:
    """Some of the characters of a writer; the seventh person writes like the first."""
    rows = writers.rows_of(number % len(writers.names))[-EACH * (1 + number // 6) :][:EACH]
    labels = [writers.classes[writers.labels[row]] for row in rows]
    return [Character(*pair) for pair in zip(writers.observations[rows], labels, strict=True)]


def without(*names: str) -> list[str]:
    return [name for name in NAMES if name not in names]


def test_rounds_in_which_a_device_is_killed_in_each_step(
    fleet: Running, release_directory: Path
) -> None:
    release = Release.load(release_directory)
    improvement = Improvement(
        release.expert, Public.of(synthetic_writers(30, 150), release), Recipe(rounds=2, writers=3)
    )
    before = improvement.begin()
    with fleet.in_hand() as grid:
        first = improvement.task(before, len(NAMES), SURVIVORS)
        fleet.die(anna="advertise", berta="mask")
        summed = fleet.sum(grid, first)
        assert sorted(summed.contributors) == without("anna", "berta")
        np.testing.assert_array_equal(summed.total, fleet.added(first, *without("anna", "berta")))
        between = improvement.advance(before, first, summed.total, len(summed.contributors))

        fleet.begin_again("anna", "berta")
        second = improvement.task(between, len(NAMES), SURVIVORS)
        fleet.die(carl="share", dora="reveal")
        summed = fleet.sum(grid, second)
        # Who was killed after its vector had left is in the sum all the same.
        assert sorted(summed.contributors) == without("carl")
        np.testing.assert_array_equal(summed.total, fleet.added(second, *without("carl")))
        after = improvement.advance(between, second, summed.total, len(summed.contributors))
    assert after.round == 2
    assert np.linalg.norm(after.parameters - before.parameters) > 0
    # Each has paid for the sums that have its vector, and for no other.
    both = [first.rho, second.rho]
    expected = dict.fromkeys(NAMES, both) | {"anna": both[1:], "berta": both[1:], "carl": both[:1]}
    assert {name: fleet.paid(name) for name in NAMES} == expected
    for agent in fleet.agents.values():
        assert "Traceback" not in agent.logged


def test_a_poisoned_candidate_is_rejected_and_the_fleet_stays_where_it_is(
    fleet: Running, release_directory: Path, tmp_path: Path
) -> None:
    coordinator = fleet.coordinator
    newest = json.loads(coordinator.command("status", "--json"))["release"]
    coordinator.until_running(newest)
    save_npz(tmp_path / "public.npz", synthetic_writers(30, 150))
    coordinator.command("public", tmp_path / "public.npz", release_directory)
    for agent in fleet.agents.values():
        (agent.home / LIES).touch()
    devices = ("--cohort", len(NAMES), "--survivors", SURVIVORS, "--participations", 4)
    coordinator.command("improvement", "--rounds", 4, "--noise", 0.01, *devices)
    coordinator.command("improve")
    with coordinator.fleet() as known:
        until(lambda: known.attempts.current is None, 600)
        [attempt] = known.attempts.all()
    assert len([each for each in attempt.rounds if (each.summed or 0) >= SURVIVORS]) == 4
    listed = json.loads(coordinator.command("releases", "--json"))
    [attempt] = listed["attempts"]
    assert attempt["stage"] == "rejected"
    assert listed["decisions"][-1]["reason"].startswith("worse on public data: ")
    assert [each["name"] for each in listed["releases"]] == [newest]
    kept = Release.load(coordinator.home / "improvement" / "candidates" / "1")
    assert kept.manifest.name == attempt["candidate"]
    assert kept.manifest.privacy["epsilon"] > 0
    coordinator.until_running(newest)
