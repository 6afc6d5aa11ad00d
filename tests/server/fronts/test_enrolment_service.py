import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedhw.invitation import Invitation
from fedhw_client.fleet.enrolment import Enrolment, enrol
from tests.server.conftest import Pen, refusal


def pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_an_invited_device_gets_in_once(served, fleet):
    pen, token = Pen("pen"), fleet.members.invite("pen")
    served.enrol(pen.request(token))
    device = fleet.members.get("pen")
    assert (device.state, device.report_key, device.node_key) == ("enrolled", pen.public, pen.node)
    assert len(served.enrolled) == 1
    served.enrol(pen.request(token))  # its first answer may have been lost
    assert fleet.members.get("pen") == device


def test_a_token_works_for_one_device(served, fleet):
    token = fleet.members.invite("pen")
    served.enrol(Pen("pen").request(token))
    code, sentence = refusal(lambda: served.enrol(Pen("pen").request(token)))
    assert code == "PERMISSION_DENIED"
    assert sentence == ("token: it was used by another device; ask the operator for an invitation")


@pytest.mark.parametrize("name", ["pen", "quill", "stranger", "", "\0"])
def test_a_wrong_token_is_refused(served, fleet, name):
    fleet.members.invite("pen")
    other = fleet.members.invite("quill")
    wrong = "guessed" if name == "quill" else other
    code, sentence = refusal(lambda: served.enrol(Pen(name).request(wrong)))
    assert code == "PERMISSION_DENIED"
    assert sentence == "token: it is not valid; ask the operator for an invitation"
    assert served.enrolled == []


def test_a_token_is_void_after_another_invitation_or_a_revocation(served, fleet):
    pen, void = Pen("pen"), fleet.members.invite("pen")
    token = fleet.members.invite("pen")
    assert refusal(lambda: served.enrol(pen.request(void)))[0] == "PERMISSION_DENIED"
    fleet.members.revoke("pen")
    assert refusal(lambda: served.enrol(pen.request(token)))[0] == "PERMISSION_DENIED"


def test_a_node_key_of_another_device_is_refused(served, fleet):
    pen = Pen("pen").join(fleet)
    thief = Pen("thief", node_key=pen.node_key)
    code, sentence = refusal(lambda: served.enrol(thief.request(fleet.members.invite("thief"))))
    assert code == "PERMISSION_DENIED"
    assert sentence.startswith("node_key: it is another device's")


BAD = {
    "no report key": ({"report_key": b""}, "report_key: 0 bytes are not 32"),
    "a long report key": ({"report_key": b"1" * 33}, "report_key: 33 bytes are not 32"),
    "another report key": ({"report_key": Pen("x").public}, "proof: it is not"),
    "a report key that is no point": ({"report_key": b"\xff" * 32}, "proof: it is not"),
    "no proof": ({"proof": b""}, "proof: it is not"),
    "another node key": ({"node_key": Pen("x").node}, "proof: it is not"),
}


@pytest.mark.parametrize("kind", BAD)
def test_keys_that_do_not_belong_together_are_refused(served, fleet, kind):
    changes, words = BAD[kind]
    request = Pen("pen").request(fleet.members.invite("pen"))
    for name, value in changes.items():
        setattr(request, name, value)
    code, sentence = refusal(lambda: served.enrol(request))
    assert (code, sentence[: len(words)]) == ("INVALID_ARGUMENT", words)
    assert fleet.members.get("pen").state == "invited"


@pytest.mark.parametrize(
    "node_key",
    [
        "",
        "no key",
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(rsa.generate_private_key(65537, 2048)),
    ],
)
def test_a_node_key_of_another_kind_is_refused(served, fleet, node_key):
    pen = Pen("pen")
    request = pen.request(fleet.members.invite("pen"))
    request.node_key = node_key
    request.proof = pen.report_key.sign(b"fedhw enrolment 1:pen\0" + node_key.encode())
    code, sentence = refusal(lambda: served.enrol(request))
    assert code == "INVALID_ARGUMENT"
    assert sentence.startswith("node_key: it is no P-384 public key")


def test_the_devices_own_enrolment_gets_in(served, fleet, home, tmp_path):
    pen = Pen("pen")
    known = pen.enrolment(home, "127.0.0.1:1").invitation
    at = served.address
    invitation = Invitation(
        **{**vars(known), "token": fleet.members.invite("pen"), "statistics": at}
    )
    made = enrol(invitation, tmp_path / "enrolment")
    assert fleet.members.get("pen").node_key == pem(made.node_key)
    assert Enrolment.load(tmp_path / "enrolment").invitation == made.invitation
