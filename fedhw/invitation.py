"""An invitation: the file that an operator gives to a person, so that a device can join."""

import json
import math
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fedhw.errors import InputError

FORMAT = 1
MAX_INVITATION_BYTES = 64 * 1024
"""An invitation has about 2 kB."""

_MEND = "give the file that `fedhw server enroll NAME` has printed"
_KINDS: dict[object, Any] = {str: str, int: int, float: int | float}

DEVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_ADDRESS = re.compile(r"[!-~]{1,300}")
"""HOST:PORT; a host is a DNS name of up to 253 characters in ASCII, or an IP address."""


def proof_of_keys(device: str, node_key: str) -> bytes:
    """Return what the report key signs to prove that the node key (PEM) is of the same device."""
    return b"fedhw enrolment 1:" + device.encode() + b"\0" + node_key.encode()


@dataclass(frozen=True)
class Invitation:
    """What a device needs to join a coordinator: its addresses, its keys, and a token.

    `certificate_authority` is PEM, `statistics` and `flower` are HOST:PORT, `release_key` is an
    Ed25519 public key and `app` the SHA-256 of the Flower app, both in hexadecimal. A report covers
    `window` seconds and costs (`epsilon`, `delta`).
    """

    device: str
    token: str
    certificate_authority: str
    statistics: str
    flower: str
    release_key: str
    app: str
    window: int
    epsilon: float
    delta: float
    format: int = FORMAT

    def to_json(self) -> str:
        """Return the file's text."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def load(cls, path: Path) -> "Invitation":
        """Read an invitation; raises InputError when the file is missing or is none."""
        try:
            with path.open(encoding="utf-8") as file:
                content = json.loads(file.read(MAX_INVITATION_BYTES))
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
            raise InputError(f"enroll: {path} cannot be read ({reason}); {_MEND}") from None
        if not isinstance(content, dict) or set(content) != {field.name for field in fields(cls)}:
            raise InputError(f"enroll: {path} is not an invitation; {_MEND}")
        for field in fields(cls):
            value = content[field.name]
            if isinstance(value, bool) or not isinstance(value, _KINDS[field.type]):
                raise InputError(f"enroll: {field.name} in {path} is {value!r}; ask for a new one")
        invitation = cls(**content)
        invitation._check(path)
        return invitation

    def _check(self, path: Path) -> None:
        good = {
            "format": self.format == FORMAT,
            "device": DEVICE_NAME.fullmatch(self.device) is not None,
            "statistics": _ADDRESS.fullmatch(self.statistics) is not None,
            "flower": _ADDRESS.fullmatch(self.flower) is not None,
            "release_key": re.fullmatch(r"[0-9a-f]{64}", self.release_key) is not None,
            "app": re.fullmatch(r"[0-9a-f]{64}", self.app) is not None,
            "window": self.window > 0,
            "epsilon": 0 < self.epsilon < math.inf,
            "delta": 0 < self.delta < 1,
        }
        for name, is_good in good.items():
            if not is_good:
                raise InputError(
                    f"enroll: {name} in {path} is {getattr(self, name)!r}; ask for a new one"
                )
