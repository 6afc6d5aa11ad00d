"""Invitations to a fleet."""

from fedhw.invitation import Invitation
from fedhw.release.signing import ReleaseKey
from fedhw_server.store.coordinator_home import Home
from fedhw_server.store.fleet import Fleet


def invite(home: Home, fleet: Fleet, name: str) -> Invitation:
    """Add a device to the fleet and return its invitation; raises InputError for a name in use."""
    policy, settings = fleet.policy, fleet.settings
    return Invitation(
        device=name,
        certificate_authority=(home.certificates / "ca.crt").read_text(encoding="ascii"),
        statistics=settings.get("statistics"),
        flower=settings.get("flower"),
        release_key=ReleaseKey.load(home.release_key).public,
        app=settings.get("app"),
        window=policy.window,
        epsilon=policy.epsilon,
        delta=policy.delta,
        token=fleet.members.invite(name),  # last: no device is added where a setting is missing
    )
