"""Counts of a fleet's devices by state."""

from collections.abc import Sequence
from typing import NamedTuple

from fedhw.release.manifest import Manifest
from fedhw_server.store.members import Member


class MemberCounts(NamedTuple):
    """Numbers of devices by their state, and by what enrolled ones do.

    `on_release` run the newest release. Of those that were offered it, `held_back` keep an older
    one, since the newest is worse for them, and `refused` could not take it.
    """

    invited: int
    enrolled: int
    online: int
    on_release: int
    held_back: int
    refused: int
    revoked: int

    @classmethod
    def of(cls, members: Sequence[Member], newest: Manifest | None, now: float) -> "MemberCounts":
        """Count the devices at that Unix second."""
        enrolled = [member for member in members if member.state == "enrolled"]
        offered = [member for member in enrolled if newest and member.offered == newest.version]
        return cls(
            invited=sum(member.state == "invited" for member in members),
            enrolled=len(enrolled),
            online=sum(member.is_online(now) for member in enrolled),
            on_release=sum(newest is not None and m.running == newest.name for m in enrolled),
            held_back=sum(member.adoption == "held back" for member in offered),
            refused=sum(member.adoption == "refused" for member in offered),
            revoked=sum(member.state == "revoked" for member in members),
        )
