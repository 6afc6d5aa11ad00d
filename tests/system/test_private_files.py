import resource
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedhw.system.private_files import pem, write_private


def test_only_the_owner_may_read_it(tmp_path):
    write_private(tmp_path / "key", b"secret")
    assert (tmp_path / "key").read_bytes() == b"secret"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_what_is_there_already_stays(tmp_path):
    write_private(tmp_path / "key", b"secret")
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "key", b"another")
    assert (tmp_path / "key").read_bytes() == b"secret"


def test_on_a_disk_that_fails_nothing_half_is_left(tmp_path: Path):
    program = (
        "import resource, sys; from pathlib import Path;"
        "from fedhw.system.private_files import write_private;"
        f"resource.setrlimit({resource.RLIMIT_FSIZE}, (10, 10));"
        "write_private(Path(sys.argv[1]), bytes(1000))"
    )
    failed = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "key"], capture_output=True, check=False
    )
    assert b"OSError" in failed.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "key", [Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())]
)
def test_a_key_is_read_as_it_was_written(key):
    assert pem(key).startswith(b"-----BEGIN PRIVATE KEY-----\n")
    again = load_pem_private_key(pem(key), password=None)
    assert again.public_key() == key.public_key()
