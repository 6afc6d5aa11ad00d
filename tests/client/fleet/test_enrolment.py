"""Joining a fleet: against the real service over TLS, and what a device keeps of it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedhw.errors import InputError
from fedhw.invitation import Invitation
from fedhw_client.fleet import enrolment as module
from fedhw_client.fleet.enrolment import INVITATION, NODE_KEY, REPORT_KEY, Enrolment, enrol
from fedhw_server.fronts.certificates import make_certificates
from tests.client.fleet.coordinators import NOBODY, Services, public_pem
from tests.command_line import is_one_sentence


@pytest.fixture
def services(tmp_path: Path, release_directory: Path) -> Iterator[Services]:
    with closing(Services(tmp_path / "coordinator", release_directory)) as services:
        services.start()
        yield services


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "enrolment"


def raw(enrolment: Enrolment) -> bytes:
    return enrolment.report_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def refusal(invitation: Invitation, place: Path) -> str:
    with pytest.raises(InputError) as refused:
        enrol(invitation, place)
    assert is_one_sentence(str(refused.value))
    assert not place.exists()
    return str(refused.value)


def test_a_device_joins_and_keeps_what_it_needs(services, place):
    invitation = services.invitation("anna")
    enrolment = enrol(invitation, place)
    known = services.fleet.members.get("anna")
    assert known.state == "enrolled"
    assert known.report_key == raw(enrolment)
    assert known.node_key == public_pem(enrolment.node_key)
    assert enrolment.invitation == replace(invitation, token="")
    again = Enrolment.load(place)
    assert again.invitation == enrolment.invitation
    assert (raw(again), public_pem(again.node_key)) == (raw(enrolment), known.node_key)
    assert again.since == pytest.approx(known.enrolled_at, abs=60)
    # What is private is its owner's alone, and the token is of no more use.
    assert {path.name for path in place.iterdir()} == {INVITATION, REPORT_KEY, NODE_KEY}
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o600}
    assert place.stat().st_mode & 0o777 == 0o700
    assert not any(invitation.token.encode() in path.read_bytes() for path in place.iterdir())
    assert list(place.parent.glob(f"{place.name}.new")) == []


def test_devices_have_keys_of_their_own(services, tmp_path):
    one, two = (enrol(services.invitation(name), tmp_path / name) for name in ("anna", "bo"))
    assert raw(one) != raw(two)
    assert public_pem(one.node_key) != public_pem(two.node_key)
    assert isinstance(one.node_key.curve, ec.SECP384R1)


def test_an_answer_that_is_lost_costs_nothing(services, place):
    invitation = services.invitation("anna")
    services.loses_answers = True
    assert "no coordinator answers" in refusal(invitation, place)
    known = services.fleet.members.get("anna")
    assert known.state == "enrolled"
    services.loses_answers = False
    enrolment = enrol(invitation, place)
    assert (raw(enrolment), public_pem(enrolment.node_key)) == (known.report_key, known.node_key)


def test_keys_of_another_invitation_are_not_used_again(services, place):
    services.loses_answers = True
    refusal(services.invitation("anna"), place)
    services.loses_answers = False
    enrolment = enrol(services.invitation("bo"), place)
    assert raw(enrolment) == services.fleet.members.get("bo").report_key
    assert raw(enrolment) != services.fleet.members.get("anna").report_key


def test_keys_that_are_damaged_are_made_anew(services, place):
    services.loses_answers = True
    invitation = services.invitation("anna")
    services.stop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ENROL_TIMEOUT_SECONDS", 0.5)
        assert "no coordinator answers" in refusal(invitation, place)
    (place.with_name(f"{place.name}.new") / NODE_KEY).write_bytes(b"")
    services.loses_answers = False
    services.start()
    assert raw(enrol(invitation, place)) == services.fleet.members.get("anna").report_key


def test_a_token_is_good_for_one_device(services, tmp_path):
    invitation = services.invitation("anna")
    enrol(invitation, tmp_path / "first")
    assert refusal(invitation, tmp_path / "second").startswith("token: it was used by another")


def test_who_is_not_invited_is_refused(services, place):
    invitation = services.invitation("anna")
    wrong = replace(invitation, token="a guess")
    assert refusal(wrong, place).startswith("token: it is not valid")
    assert refusal(replace(invitation, device="bo"), place).startswith("token: it is not valid")
    services.fleet.members.revoke("anna")
    assert refusal(invitation, place).startswith("token: it is not valid")


def test_only_the_coordinator_of_the_invitation_is_trusted(services, place, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ENROL_TIMEOUT_SECONDS", 1.0)
    make_certificates(tmp_path / "other", ["127.0.0.1"])
    other = (tmp_path / "other" / "ca.crt").read_text(encoding="ascii")
    invitation = services.invitation("anna")
    told = refusal(replace(invitation, certificate_authority=other), place)
    assert told.startswith("enroll: no coordinator answers at 127.0.0.1:")
    assert services.fleet.members.get("anna").state == "invited"
    assert NOBODY in refusal(replace(invitation, statistics=NOBODY), place)


@pytest.mark.parametrize("name", [INVITATION, REPORT_KEY, NODE_KEY])
def test_what_is_damaged_or_missing_is_said(services, place, name):
    enrol(services.invitation("anna"), place)
    content = (place / name).read_bytes()
    for damage in (b"", b"garbage", content[: len(content) // 2], None):
        if damage is None:
            (place / name).unlink()
        else:
            (place / name).write_bytes(damage)
        with pytest.raises(InputError) as refused:
            Enrolment.load(place)
        assert is_one_sentence(str(refused.value))


def test_keys_that_changed_places_are_said(services, place):
    enrol(services.invitation("anna"), place)
    shutil.copy(place / NODE_KEY, place / REPORT_KEY)
    with pytest.raises(InputError, match="the keys in"):
        Enrolment.load(place)


def test_the_invitation_that_is_kept_can_be_read_by_a_person(services, place):
    enrol(services.invitation("anna"), place)
    content = json.loads((place / INVITATION).read_text(encoding="utf-8"))
    assert (content["device"], content["token"]) == ("anna", "")
