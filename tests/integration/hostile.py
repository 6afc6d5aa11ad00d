"""Who has taken a coordinator's machine: its SuperLink, and a ServerApp that says anything."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedhw.v1 import release_pb2 as pb
from fedhw_server.leader import coordinator_process, superlink
from fedhw_server.leader.offering import OFFER
from fedhw_server.leader.superlink import Address, SuperLink
from fedhw_server.store.coordinator_home import Home
from tests.waiting import until

SECRET = "known"
PATIENT = 120.0
"""Seconds in which a device must have come back and said something."""


class Hostile:
    """A run on a SuperLink, by which a device can be sent anything."""

    def __init__(self, grid: Grid, node: int) -> None:
        self._grid = grid
        self._node = node

    def ask(self, content: RecordDict, kind: str = OFFER.type) -> Message:
        """Send a message to the device, as soon as it is there, and return what it says."""
        end = time.monotonic() + PATIENT
        while True:
            until(lambda: self._node in set(self._grid.get_node_ids()), PATIENT)
            (asked,) = self._grid.push_messages([Message(content, self._node, kind)])
            while not (replies := list(self._grid.pull_messages([asked]))):
                assert time.monotonic() < end, "the device says nothing"
                time.sleep(0.05)
            # Flower takes a device to be there for a while after it was not.
            if not replies[0].has_error() or replies[0].error.code != ErrorCode.NODE_UNAVAILABLE:
                return replies[0]

    def offer(self, manifest: bytes, signature: bytes, files: dict[str, bytes]) -> pb.Answer:
        """Offer a release."""
        offer = pb.Offer(manifest=manifest, signature=signature, files=files)
        reply = self.ask(said(offer.SerializeToString()))
        assert not reply.has_error(), reply.error
        content = reply.content["fedhw"]["answer"]
        assert isinstance(content, bytes)
        return pb.Answer.FromString(content)


def said(offer: bytes) -> RecordDict:
    """The content of a message that offers something."""
    return RecordDict({"fedhw": ConfigRecord({"offer": offer})})


@contextmanager
def superlink_of(home: Path, port: int) -> Iterator[Address]:
    """A SuperLink with what a coordinator's SuperLink knew, in its place."""
    address = Address(f"127.0.0.1:{port}", home / "tls" / "ca.crt", SECRET)
    part, _ = coordinator_process.child_processes(coordinator_process.Settings(Home(home)), address)
    process = subprocess.Popen(
        part.command,
        env=part.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with closing(SuperLink(address)) as control:
            until(lambda: answers(control))
        yield address
    finally:
        process.kill()
        process.wait()


def answers(control: SuperLink) -> bool:
    try:
        control.nodes()
    except httpx.HTTPError:
        return False
    return True


@contextmanager
def hostile(address: Address, node: int) -> Iterator[Hostile]:
    """A run of the app that `superlink.flower_app` makes."""
    with superlink.running(address) as (grid, _):
        yield Hostile(grid, node)
