"""The coordinator's own certificate authority."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhw.system.atomic import replacing
from fedhw.system.clock import Clock, SystemClock
from fedhw.system.private_files import pem, write_private

AUTHORITY_YEARS = 20
SERVER_DAYS = 825
"""The longest that common TLS libraries accept for a server (CA/Browser Forum, ballot 193)."""

RENEWAL = timedelta(days=30)
"""How long before its expiry a certificate is replaced."""


def make_certificates(directory: Path, hosts: list[str], clock: Clock = SystemClock()) -> None:
    """Make ca.crt, ca.key, server.crt and server.key where they are missing or about to expire.

    `hosts` are the names and IP addresses by which devices reach the server; a server certificate
    that lacks one of them is replaced, the authority never is.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    now = datetime.fromtimestamp(clock.wall(), UTC)
    if not (directory / "ca.key").exists():
        _make_authority(directory, now)
    if not _is_good(directory, hosts, now):
        _make_server(directory, hosts, now)


def _make_authority(directory: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _named("fedhw coordinator")
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        _valid(now, timedelta(days=365 * AUTHORITY_YEARS))
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    # The key comes last, so its presence means that both exist.
    _write(directory / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM))
    _write(directory / "ca.key", pem(key))


def _make_server(directory: Path, hosts: list[str], now: datetime) -> None:
    authority = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
    signer = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _valid(now, timedelta(days=SERVER_DAYS))
        # Its hosts are alternative names, since a common name has 64 characters at most (RFC 5280).
        .subject_name(_named("fedhw coordinator's server"))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )
    _write(directory / "server.key", pem(key))
    _write(directory / "server.crt", certificate.public_bytes(serialization.Encoding.PEM))


def _is_good(directory: Path, hosts: list[str], now: datetime) -> bool:
    try:
        key = serialization.load_pem_private_key((directory / "server.key").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((directory / "server.crt").read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    if key.public_key() != certificate.public_key():  # a crash between the two files
        return False
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    ends = certificate.not_valid_after_utc
    return ends - now > RENEWAL and all(_name(host) in names for host in hosts)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _valid(now: datetime, duration: timedelta) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks of devices differ
        .not_valid_after(now + duration)
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(path: Path, content: bytes) -> None:
    with replacing(path, durable=True) as unfinished:
        write_private(unfinished, content)
