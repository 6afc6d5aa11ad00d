import socket
import ssl
import threading

import pytest
from cryptography import x509

from fedhw.system.clock import DAY_SECONDS, SettableClock
from fedhw_server.fronts.certificates import RENEWAL, SERVER_DAYS, make_certificates


def parts(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def met(directory, host):
    """What a client sees that trusts this authority alone and calls the host."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(directory / "server.crt", directory / "server.key")
    trusting = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    one, other = socket.socketpair()

    def answer():
        try:
            serving.wrap_socket(other, server_side=True).close()
        except OSError:
            other.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with trusting.wrap_socket(one, server_hostname=host) as channel:
            return channel.getpeercert()
    finally:
        one.close()
        thread.join()


@pytest.mark.parametrize("host", ["fleet.example.org", "127.0.0.1", "::1"])
def test_the_chain_verifies_for_every_host(tmp_path, host):
    make_certificates(tmp_path, ["fleet.example.org", "127.0.0.1", "::1"])
    assert met(tmp_path, host)["subject"] == ((("commonName", "fedhw coordinator's server"),),)


def test_it_does_not_for_another_host_or_another_authority(tmp_path):
    make_certificates(tmp_path / "one", ["fleet.example.org"])
    make_certificates(tmp_path / "two", ["fleet.example.org"])
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        met(tmp_path / "one", "other.example.org")
    (tmp_path / "one" / "ca.crt").write_bytes((tmp_path / "two" / "ca.crt").read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        met(tmp_path / "one", "fleet.example.org")


def test_nobody_else_may_read_them(tmp_path):
    make_certificates(tmp_path / "tls", ["localhost"])
    assert (tmp_path / "tls").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "tls").iterdir())


def test_they_are_made_once(tmp_path):
    make_certificates(tmp_path, ["one.example.org", "two.example.org"])
    before = parts(tmp_path)
    make_certificates(tmp_path, ["two.example.org"])
    assert parts(tmp_path) == before


def test_a_new_host_gets_a_certificate_of_the_same_authority(tmp_path):
    make_certificates(tmp_path, ["one.example.org"])
    before = parts(tmp_path)
    make_certificates(tmp_path, ["two.example.org"])
    after = parts(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"server.crt", "server.key"}
    assert met(tmp_path, "two.example.org")


def test_one_that_is_about_to_end_is_renewed(tmp_path):
    clock = SettableClock()
    make_certificates(tmp_path, ["localhost"], clock)
    before = parts(tmp_path)
    clock.advance((SERVER_DAYS - RENEWAL.days) * DAY_SECONDS - 1)
    make_certificates(tmp_path, ["localhost"], clock)
    assert parts(tmp_path) == before
    clock.advance(1)
    make_certificates(tmp_path, ["localhost"], clock)
    after = parts(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"server.crt", "server.key"}
    ends = x509.load_pem_x509_certificate(after["server.crt"]).not_valid_after_utc
    assert ends.timestamp() - clock.wall() == SERVER_DAYS * DAY_SECONDS


@pytest.mark.parametrize("damage", ["server.key", "server.crt"])
def test_a_pair_that_does_not_fit_is_made_anew(tmp_path, damage):
    make_certificates(tmp_path / "one", ["localhost"])
    make_certificates(tmp_path / "two", ["localhost"])
    (tmp_path / "one" / damage).write_bytes((tmp_path / "two" / damage).read_bytes())
    make_certificates(tmp_path / "one", ["localhost"])
    assert met(tmp_path / "one", "localhost")
    (tmp_path / "one" / damage).unlink()
    make_certificates(tmp_path / "one", ["localhost"])
    assert met(tmp_path / "one", "localhost")
    (tmp_path / "one" / damage).write_bytes(b"")
    make_certificates(tmp_path / "one", ["localhost"])
    assert met(tmp_path / "one", "localhost")
