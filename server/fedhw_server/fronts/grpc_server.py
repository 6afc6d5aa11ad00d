"""The gRPC server for devices: statistics, enrolment and health, over TLS."""

from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fedhw.malformed_requests import MalformedRefused
from fedhw.v1 import enrolment_pb2_grpc, statistics_pb2, statistics_pb2_grpc
from fedhw_server.fronts.enrolment_service import EnrolmentService
from fedhw_server.fronts.statistics_service import StatisticsService

LARGEST_MESSAGE_BYTES = 256 * 1024
"""Most bytes of a request; a report has some 3 bytes a class, and 65,536 classes at most."""

MAX_CONCURRENT_CALLS = 1024
"""Calls that are served at once; further ones are refused, and devices try again."""

NAME = statistics_pb2.DESCRIPTOR.services_by_name["Statistics"].full_name


def grpc_server(
    address: str, certificates: Path, statistics: StatisticsService, enrolment: EnrolmentService
) -> tuple[grpc.aio.Server, int]:
    """Return a server that is bound to HOST:PORT but not started, and its port."""
    server = grpc.aio.server(
        interceptors=[MalformedRefused()],
        options=[
            ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS,
    )
    statistics_pb2_grpc.add_StatisticsServicer_to_server(statistics, server)  # type: ignore[no-untyped-call]
    enrolment_pb2_grpc.add_EnrolmentServicer_to_server(enrolment, server)  # type: ignore[no-untyped-call]
    healthy = health.HealthServicer()
    healthy.set(NAME, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    pair = ((certificates / "server.key").read_bytes(), (certificates / "server.crt").read_bytes())
    return server, server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
