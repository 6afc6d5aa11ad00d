"""The service that enrols devices, as `protos/fedhw/v1/enrolment.proto` defines it."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc
import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from fedhw.errors import InputError
from fedhw.invitation import proof_of_keys
from fedhw.system.sqlite import StoreError
from fedhw.v1 import enrolment_pb2 as pb
from fedhw.v1 import enrolment_pb2_grpc as pb_grpc
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.members import EnrolmentError

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

log = structlog.get_logger()


class EnrolmentService(pb_grpc.EnrolmentServicer):
    """Checks a device's token and stores its keys; calls `enrolled` after each enrolment."""

    def __init__(self, fleet: Fleet, enrolled: Callable[[], object]) -> None:
        self._fleet = fleet
        self._enrolled = enrolled

    async def Enrol(  # noqa: N802
        self, request: pb.EnrolRequest, context: Context
    ) -> pb.EnrolResponse:
        """Register a device's public keys."""
        try:
            node_key = _checked(request)
            await asyncio.to_thread(
                self._fleet.members.enrol,
                request.device,
                request.token,
                request.report_key,
                node_key,
            )
        except EnrolmentError as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except StoreError as error:
            log.error("not enrolled", error=type(error).__name__)
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, "fleet: it cannot be written now; try again later"
            )
        except InputError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        log.info("enrolled", device=request.device)
        self._enrolled()
        return pb.EnrolResponse()


def _checked(request: pb.EnrolRequest) -> str:
    """Return the node key in Flower's format, after checking the proof of both keys."""
    if len(request.report_key) != 32:
        raise InputError(f"report_key: {len(request.report_key)} bytes are not 32; send Ed25519")
    signed = proof_of_keys(request.device, request.node_key)
    try:
        Ed25519PublicKey.from_public_bytes(request.report_key).verify(request.proof, signed)
    except (InvalidSignature, ValueError):
        raise InputError("proof: it is not the report key's; sign name and node key") from None
    try:
        node_key = load_pem_public_key(request.node_key.encode())
    except ValueError:
        node_key = None
    if not isinstance(node_key, ec.EllipticCurvePublicKey) or node_key.curve.name != "secp384r1":
        raise InputError("node_key: it is no P-384 public key in PEM; make one")
    return node_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
