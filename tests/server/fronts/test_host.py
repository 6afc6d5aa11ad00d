import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.errors import InputError
from fedhw_server.fronts.certificates import make_certificates
from fedhw_server.fronts.host import checked_host

LONG = "coordinator-0.coordinator.handwriting-handwriting-handwriting.production.svc.cluster.local"


@pytest.mark.parametrize(
    ("given_host", "host"),
    [
        ("fleet.example.org", "fleet.example.org"),
        ("fleet.example.org.", "fleet.example.org"),
        ("fleet_1", "fleet_1"),
        ("10.0.0.7", "10.0.0.7"),
        ("::1", "::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("bücher.example.org", "xn--bcher-kva.example.org"),
        ("手書き.jp", "xn--w8j181mv6c.jp"),
        (LONG, LONG),
    ],
)
def test_a_host_is_as_addresses_have_it(given_host, host):
    assert checked_host(given_host) == host


@pytest.mark.parametrize(
    "given_host",
    [
        *("", " ", ".", "a..b", "-a", "a-", "fleet example", "https://fleet.example.org"),
        *("fleet.example.org:9470", "[::1]", "fe80::1%eth0", "a/b", "a\n", "x" * 64, "::g"),
        ".".join(["x" * 60] * 5),
    ],
)
def test_what_is_none_is_refused_in_one_sentence(given_host):
    with pytest.raises(InputError, match=r"^advertise: .* --advertise$") as caught:
        checked_host(given_host)
    assert str(caught.value).isprintable()


@given(st.text(max_size=80))
def test_what_is_accepted_can_be_written_into_an_address(text):
    try:
        host = checked_host(text)
    except InputError:
        return
    assert host.isascii()
    assert not set(host) & set("[]/@% \n")
    assert checked_host(host) == host


def test_a_long_name_gets_a_certificate(tmp_path):
    make_certificates(tmp_path, [LONG])
