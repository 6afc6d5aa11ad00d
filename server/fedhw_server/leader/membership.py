"""Keeps Flower's list of SuperNodes in step with the fleet's list of devices."""

import asyncio

import httpx
import structlog

from fedhw.system.clock import Clock, SystemClock
from fedhw.system.sqlite import StoreError
from fedhw_server.leader.superlink import KnownNode, SuperLink
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.members import Member

REFRESH_SECONDS = 1.0
"""Most seconds until a revocation by the operator takes effect."""

SIGHTING_SECONDS = 5.0
"""Seconds between two updates of which devices are online."""

log = structlog.get_logger()


class Membership:
    """Registers enrolled devices with Flower and unregisters revoked ones."""

    def __init__(self, fleet: Fleet, superlink: SuperLink, clock: Clock = SystemClock()) -> None:
        self._fleet = fleet
        self._superlink = superlink
        self._clock = clock
        self._changed = asyncio.Event()
        self._refused: set[str] = set()

    def changed(self) -> None:
        """Compare the lists at once."""
        self._changed.set()

    async def keep(self) -> None:
        """Keep the lists in step until cancelled."""
        looked = 0.0
        while True:
            now = self._clock.monotonic()
            try:
                is_due = self._changed.is_set() or now - looked > SIGHTING_SECONDS
                if is_due or await asyncio.to_thread(self._differs):
                    self._changed.clear()
                    await asyncio.to_thread(self._synchronise)
                    looked = now
            except (httpx.HTTPError, StoreError) as error:
                log.info("the lists cannot be compared yet", error=type(error).__name__)
            try:
                await asyncio.wait_for(self._changed.wait(), REFRESH_SECONDS)
            except TimeoutError:
                continue

    def _differs(self) -> bool:
        """Whether the lists differ in a device that Flower has not just refused."""
        return bool(self._fleet.members.differing() - self._refused)

    def _synchronise(self) -> None:
        known = self._superlink.nodes()
        self._refused = set()
        for device in self._fleet.members.all():
            if device.node_key is None:
                continue
            try:
                self._synchronise_device(device, known.get(device.node_key))
            except httpx.HTTPStatusError as error:  # about this device alone
                log.warning("refused by flower", device=device.name, error=str(error)[:80])
                self._refused.add(device.name)
        self._fleet.members.seen(node.node for node in known.values() if node.is_online)

    def _synchronise_device(self, device: Member, node: KnownNode | None) -> None:
        if device.state == "enrolled":
            number = self._superlink.register(device.node_key or "") if node is None else node.node
            if number != device.node:
                self._fleet.members.set_node(device.name, number)
            return
        if node is not None:
            self._superlink.unregister(node.node)
            log.info("revoked", device=device.name)
        if device.node is not None:
            self._fleet.members.set_node(device.name, None)
