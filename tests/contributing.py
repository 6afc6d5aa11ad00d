"""Real devices that take part in sums: each an agent with a person's corrections and a ledger."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhw.data.writers import WriterSet
from fedhw.improvement.contribution import Task
from fedhw.improvement.local_update import flat
from fedhw.invitation import Invitation
from fedhw.privacy.budget import Limits
from fedhw.privacy.ledger import Ledger
from fedhw.release.release import Release
from fedhw.system.clock import Clock, SystemClock
from fedhw_client.agent.agent import Agent
from fedhw_client.agent.correction import Correction
from fedhw_client.fleet.contributor import Contributor
from fedhw_client.fleet.enrolment import Enrolment
from fedhw_client.store.corrections import Store

ENOUGH = Limits(per_day=1e6, in_all=1e6, delta=1e-6)


class Device(NamedTuple):
    """What takes part, and what it has."""

    name: str
    agent: Agent
    ledger: Ledger
    enrolment: Enrolment
    contributor: Contributor


def enrolled(name: str, release_key: str) -> Enrolment:
    invitation = Invitation(
        device=name,
        token="",
        certificate_authority="",
        statistics="127.0.0.1:1",
        flower="127.0.0.1:1",
        release_key=release_key,
        app="",
        window=60,
        epsilon=2.0,
        delta=1e-6,
    )
    return Enrolment(
        invitation, Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())
    )


@contextmanager
def device(
    home: Path,
    release: Release,
    enrolment: Enrolment,
    corrections: Sequence[Correction],
    least: int = 2,
    limits: Limits = ENOUGH,
    clock: Clock = SystemClock(),
) -> Iterator[Device]:
    """A device for as long as a `with` block lasts; its home is new, or one that was left."""
    home.mkdir(exist_ok=True)
    place = home / "ledger.db"
    ledger = Ledger.open(place) if place.exists() else Ledger.create(place, limits)
    agent = Agent(of_fleet(release), Store(home / "device.db"), clock=clock)
    agent.learn(corrections)
    contributor = Contributor(agent, enrolment, ledger, least, clock)
    try:
        yield Device(enrolment.invitation.device, agent, ledger, enrolment, contributor)
    finally:
        contributor.close()
        agent.close()


def of_fleet(release: Release) -> Release:
    """The same as if a coordinator had published it."""
    return replace(release, manifest=replace(release.manifest, version=1))


def written(writers: WriterSet, writer: int, count: int) -> list[Correction]:
    """What somebody has written, with names so that it is stored once."""
    rows = writers.rows_of(writer)[:count]
    return [
        Correction(writers.observations[row], writers.classes[writers.labels[row]], f"{row}")
        for row in rows
    ]


def task(release: Release, **changes: float) -> Task:
    """What three of four devices may do together."""
    parameters = flat(release.expert).astype("<f4").tobytes()
    usual = Task(parameters, rate=0.01, radius=1.0, noise=1.0, devices=4, survivors=3)
    return replace(usual, **changes)
