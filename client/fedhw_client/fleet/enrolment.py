"""Enrolment of a device: the invitation it accepted and its own keys.

The private keys never leave the home. One signs reports, the other authenticates the device to
Flower.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from fedhw.errors import InputError
from fedhw.invitation import Invitation, proof_of_keys
from fedhw.system.atomic import replacing, sync_entry
from fedhw.system.clock import Clock, SystemClock
from fedhw.system.private_files import pem, write_private
from fedhw.v1 import enrolment_pb2 as pb
from fedhw.v1 import enrolment_pb2_grpc as pb_grpc

ENROL_TIMEOUT_SECONDS = 20.0
"""Seconds that the coordinator has to answer."""

INVITATION, REPORT_KEY, NODE_KEY = "invitation.json", "report.key", "node.key"


@dataclass(frozen=True)
class Enrolment:
    """An accepted invitation, without its token, and the device's private keys."""

    invitation: Invitation
    report_key: Ed25519PrivateKey
    node_key: ec.EllipticCurvePrivateKey
    since: float = 0.0
    """When the device enrolled, in Unix seconds."""

    @classmethod
    def load(cls, directory: Path) -> "Enrolment":
        """Read an enrolment that `enrol` wrote; raises InputError when it cannot be read."""
        invitation = Invitation.load(directory / INVITATION)
        report_key, node_key = (_load(directory / name) for name in (REPORT_KEY, NODE_KEY))
        if not isinstance(report_key, Ed25519PrivateKey) or not isinstance(
            node_key, ec.EllipticCurvePrivateKey
        ):
            raise InputError(f"enroll: the keys in {directory} are damaged; ask to be invited anew")
        since = (directory / INVITATION).stat().st_mtime
        return cls(invitation, report_key, node_key, since)


def enrol(invitation: Invitation, directory: Path, clock: Clock = SystemClock()) -> Enrolment:
    """Make keys, register the public keys with the coordinator, and store the enrolment.

    It may be repeated after an interruption: the same keys are registered again. Raises InputError
    when the coordinator does not answer or refuses.
    """
    waiting = directory.with_name(f"{directory.name}.new")
    enrolment = _prepared(invitation, waiting, clock)
    public_key = enrolment.node_key.public_key()
    node_key = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    request = pb.EnrolRequest(
        device=invitation.device,
        token=invitation.token,
        report_key=enrolment.report_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw),
        node_key=node_key,
        proof=enrolment.report_key.sign(proof_of_keys(invitation.device, node_key)),
    )
    try:
        with secure_channel(invitation) as channel:
            stub = pb_grpc.EnrolmentStub(channel)  # type: ignore[no-untyped-call]
            stub.Enrol(request, timeout=ENROL_TIMEOUT_SECONDS, wait_for_ready=True)
    except grpc.RpcError as error:
        raise _explained(error, invitation) from None
    waiting.replace(directory)
    sync_entry(directory.parent)
    return enrolment


def secure_channel(invitation: Invitation) -> grpc.Channel:
    """Return a channel to the coordinator's gRPC services that trusts only its authority."""
    credentials = grpc.ssl_channel_credentials(invitation.certificate_authority.encode())
    return grpc.secure_channel(
        invitation.statistics, credentials, options=[("grpc.enable_http_proxy", 0)]
    )


def _prepared(invitation: Invitation, directory: Path, clock: Clock) -> Enrolment:
    """Return new keys for this invitation, or those of an earlier attempt."""
    kept = replace(invitation, token="")
    if directory.exists():
        try:
            before = Enrolment.load(directory)
            if before.invitation == kept:
                return before
        except InputError:
            pass
    with replacing(directory, durable=True) as unfinished:
        unfinished.mkdir(mode=0o700)
        write_private(unfinished / INVITATION, kept.to_json().encode())
        os.utime(unfinished / INVITATION, (clock.wall(), clock.wall()))
        write_private(unfinished / REPORT_KEY, pem(Ed25519PrivateKey.generate()))
        write_private(unfinished / NODE_KEY, pem(ec.generate_private_key(ec.SECP384R1())))
    return Enrolment.load(directory)


def _explained(error: grpc.RpcError, invitation: Invitation) -> InputError:
    code = error.code()
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT):
        return InputError(str(error.details()))
    return InputError(
        f"enroll: no coordinator answers at {invitation.statistics} ({code.name}); check that it "
        "runs and can be reached from here"
    )


def _load(path: Path) -> object:
    try:
        return load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError):
        return None
