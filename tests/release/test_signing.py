import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from fedhw.errors import InputError
from fedhw.release.signing import (
    DOMAIN,
    ReleaseKey,
    SignatureError,
    verify,
    verify_candidate,
    verify_device,
)

KEY, OTHER = ReleaseKey(Ed25519PrivateKey.generate()), ReleaseKey(Ed25519PrivateKey.generate())


@given(st.binary(), st.binary())
def test_a_signature_is_of_these_bytes_and_no_others(manifest: bytes, other: bytes) -> None:
    signature = KEY.sign(manifest)
    verify(manifest, signature, KEY.public)
    if other != manifest:
        with pytest.raises(SignatureError, match="signature: is not that of"):
            verify(other, signature, KEY.public)
    with pytest.raises(SignatureError):
        verify(manifest, signature, OTHER.public)


@given(st.integers(0, 63), st.integers(0, 7))
def test_no_bit_of_a_signature_may_be_another(byte: int, bit: int) -> None:
    signature = bytearray(KEY.sign(b"manifest"))
    signature[byte] ^= 1 << bit
    with pytest.raises(SignatureError):
        verify(b"manifest", bytes(signature), KEY.public)


@pytest.mark.parametrize("signature", [b"", b"x", bytes(64), bytes(65), bytes(10_000)])
def test_a_signature_of_another_length_is_none(signature: bytes) -> None:
    with pytest.raises(SignatureError):
        verify(b"manifest", signature, KEY.public)


def test_what_the_key_signed_for_another_purpose_is_no_release() -> None:
    with pytest.raises(SignatureError):
        verify(b"manifest", KEY._private.sign(b"manifest"), KEY.public)
    verify(b"manifest", KEY._private.sign(DOMAIN + b"manifest"), KEY.public)
    assert DOMAIN == b"fedhw release 1:"


def test_a_candidate_is_no_release_and_a_release_no_candidate() -> None:
    signature = KEY.sign_candidate(b"manifest")
    verify_candidate(b"manifest", signature, KEY.public)
    for altered in (b"manifest ", b""):
        with pytest.raises(SignatureError, match="for a candidate"):
            verify_candidate(altered, signature, KEY.public)
    with pytest.raises(SignatureError, match="for a candidate"):
        verify_candidate(b"manifest", signature, OTHER.public)
    with pytest.raises(SignatureError):
        verify(b"manifest", signature, KEY.public)
    with pytest.raises(SignatureError):
        verify_candidate(b"manifest", KEY.sign(b"manifest"), KEY.public)


@pytest.mark.parametrize("public", ["", "zz" * 32, "00" * 31, "é" * 64])
def test_a_public_key_that_is_none_is_one_sentence(public: str) -> None:
    with pytest.raises(InputError, match="is not an Ed25519 public key"):
        verify(b"manifest", KEY.sign(b"manifest"), public)


def test_a_key_is_kept_for_its_owner_and_is_the_same_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "release.key"
    before = os.umask(0)
    try:
        key = ReleaseKey.create(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert ReleaseKey.load(path).public == key.public
    verify(b"manifest", ReleaseKey.load(path).sign(b"manifest"), key.public)
    with pytest.raises(InputError, match="exists and devices trust it"):
        ReleaseKey.create(path)
    assert ReleaseKey.load(path).public == key.public


def test_a_key_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "release.key"
    with pytest.raises(InputError, match=r"release.key cannot be read \(No such file"):
        ReleaseKey.load(path)
    other = generate_private_key(SECP384R1())
    for content in (
        b"",
        b"nonsense",
        other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is not an Ed25519 key"):
            ReleaseKey.load(path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        ReleaseKey.create(tmp_path / "file" / "release.key")


def test_a_key_does_not_show_itself() -> None:
    assert KEY.public not in repr(KEY)
    assert KEY._private.private_bytes_raw().hex() not in repr(KEY)


@given(st.text(), st.binary(min_size=32, max_size=32), st.text(), st.binary(max_size=40))
def test_a_certificate_is_of_this_name_and_this_key(
    device: str, report_key: bytes, another: str, other_key: bytes
) -> None:
    certificate = KEY.certify(device, report_key)
    verify_device(device, report_key, certificate, KEY.public)
    for name, key, authority in (
        (another, report_key, KEY.public),
        (device, other_key, KEY.public),
        (device, report_key, OTHER.public),
    ):
        if (name, key, authority) != (device, report_key, KEY.public):
            with pytest.raises(SignatureError, match="certificate: that of"):
                verify_device(name, key, certificate, authority)


def test_a_certificate_is_no_release_and_a_release_no_certificate() -> None:
    named = b"pen\0" + bytes(32)
    with pytest.raises(SignatureError):
        verify(named, KEY.certify("pen", bytes(32)), KEY.public)
    with pytest.raises(SignatureError):
        verify_device("pen", bytes(32), KEY.sign(named), KEY.public)
