"""Devices, invited, listed and sent away by the operator."""

import json

from fedhw.invitation import Invitation
from fedhw.release.signing import ReleaseKey
from fedhw_server.leader.superlink import app_digest
from tests.server.conftest import POLICY, Pen


def test_an_invitation_is_all_that_a_device_needs(typed, ready, home, tmp_path):
    (tmp_path / "pen.enroll").write_text(typed("enroll", "pen"))
    invitation = Invitation.load(tmp_path / "pen.enroll")
    assert (invitation.device, invitation.app) == ("pen", app_digest())
    assert invitation.statistics == "fleet.example.org:9470"
    assert invitation.flower == "fleet.example.org:9471"
    assert invitation.release_key == ReleaseKey.load(home.release_key).public
    assert invitation.certificate_authority == (home.certificates / "ca.crt").read_text()
    policy = (invitation.window, invitation.epsilon, invitation.delta)
    assert policy == (POLICY.window, POLICY.epsilon, POLICY.delta)
    pen = Pen("pen")
    assert ready.members.enrol("pen", invitation.token, pen.public, pen.node).state == "enrolled"


def test_a_name_is_used_once(typed, ready):
    Pen("pen").join(ready)
    assert typed("enroll", "pen", code=2) == "name: pen is enrolled already; give another name"
    assert typed("enroll", "a b", code=2).startswith("name: 'a b' cannot name a device")


def test_revoked_is_revoked(typed, ready):
    Pen("pen").join(ready)
    assert typed("revoke", "pen") == "pen is revoked\n"
    assert ready.members.get("pen").state == "revoked"
    assert typed("revoke", "quill", code=2).startswith("name: quill is not known")


def test_devices(typed, ready, published):
    Pen("pen").join(ready)
    ready.members.invite("guest")
    ready.members.note_answer("pen", 1, published.name, "refused", "store")
    guest, pen = json.loads(typed("devices", "--json"))
    assert (guest["name"], guest["state"]) == ("guest", "invited")
    assert (pen["running"], pen["adoption"], pen["refusal"]) == (published.name, "refused", "store")
    shown = typed("devices")
    assert "refused: store" in shown
    assert published.name in shown
    assert "never" in shown
    # Keys and tokens are nobody's business.
    assert not {"token", "report_key", "node_key"} & pen.keys()
