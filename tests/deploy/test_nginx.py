"""The edge as it is shipped, in a real nginx, before a small TLS server and a real gRPC server."""

import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import grpc
import pytest

from fedhw.v1 import statistics_pb2 as pb
from fedhw.v1 import statistics_pb2_grpc as pb_grpc
from fedhw_server.fronts.certificates import make_certificates
from tests.places import DEPLOY
from tests.waiting import free_port, until

NAME = "fleet.example.org"

pytestmark = pytest.mark.needs("nginx")


class Seen(NamedTuple):
    """What came through to Flower's side: the request line as it was sent, and the headers."""

    line: str
    headers: dict[str, str]


class Edge(NamedTuple):
    """A running nginx, whose certificates devices trust, and what it let through."""

    flower_port: int
    statistics_port: int
    authority: Path
    seen: list[Seen]

    def ask(self, line: str, *headers: str, length: int = 0) -> int:
        """Send a request line as it stands, which no client library does; returns the status."""
        trust = ssl.create_default_context(cafile=str(self.authority))
        text = [line, f"Host: {NAME}", f"Content-Length: {length}", *headers]
        with (
            socket.create_connection(("127.0.0.1", self.flower_port), timeout=30) as connection,
            trust.wrap_socket(connection, server_hostname=NAME) as channel,
            channel.makefile("rb") as answers,
        ):
            channel.sendall("\r\n".join([*text, "", ""]).encode("latin-1"))
            return int(answers.readline().split()[1])

    @contextmanager
    def statistics(self) -> Iterator[grpc.Channel]:
        """A device's channel."""
        with grpc.secure_channel(
            f"127.0.0.1:{self.statistics_port}",
            grpc.ssl_channel_credentials(self.authority.read_bytes()),
            [("grpc.ssl_target_name_override", NAME)],
        ) as channel:
            yield channel


class Flower(BaseHTTPRequestHandler):
    """Answers everything with 200 and writes down what it was asked."""

    protocol_version = "HTTP/1.1"
    seen: list[Seen]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.seen.append(Seen(self.requestline, headers))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Statistics(pb_grpc.StatisticsServicer):
    """Takes every report."""

    def SendReport(self, request, context):  # noqa: N802
        return pb.SendReportResponse()


@contextmanager
def flower(directory: Path, seen: list[Seen]) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Noting", (Flower,), {"seen": seen}))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(directory / "server.crt", directory / "server.key")
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def statistics(directory: Path) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(2))
    pb_grpc.add_StatisticsServicer_to_server(Statistics(), server)
    pair = [((directory / "server.key").read_bytes(), (directory / "server.crt").read_bytes())]
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair))
    server.start()
    yield port
    server.stop(0).wait()


@contextmanager
def nginx(directory: Path, port: int) -> Iterator[None]:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
    # Workers of a root's nginx are somebody else, who cannot enter the directory of the test.
    user = "user root;" if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(
        f"{user} daemon off; pid {directory}/pid; error_log {directory}/error.log; events {{}}\n"
        f"http {{ {temporary} include {directory}/fedhw.conf; }}\n",
        "utf-8",
    )
    command = ["nginx", "-p", directory, "-c", directory / "nginx.conf", "-e", "stderr"]
    process = subprocess.Popen(command)

    def listens() -> bool:
        assert process.poll() is None, (directory / "error.log").read_text("utf-8")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listens)
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    directory = tmp_path_factory.mktemp("edge")
    make_certificates(directory, [NAME])
    seen: list[Seen] = []
    outer_flower, outer_statistics = free_port(), free_port()
    with flower(directory, seen) as inner_flower, statistics(directory) as inner_statistics:
        text = (DEPLOY / "nginx" / "fedhw.conf").read_text("utf-8")
        for old, new in {
            "203.0.113.1:9470": f"127.0.0.1:{outer_statistics}",
            "203.0.113.1:9471": f"127.0.0.1:{outer_flower}",
            "10.0.0.2:9470": f"127.0.0.1:{inner_statistics}",
            "10.0.0.2:9471": f"127.0.0.1:{inner_flower}",
            "/etc/nginx/fedhw/": f"{directory}/",
        }.items():
            assert old in text
            text = text.replace(old, new)
        (directory / "fedhw.conf").write_text(text, "utf-8")
        with nginx(directory, outer_flower):
            yield Edge(outer_flower, outer_statistics, directory / "ca.crt", seen)


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/v1/fleet/activate-node",
        "/v1/fleet/pull-messages",
        "/v1/fleet/push-object",
        "/v1/fleet/send-node-heartbeat",
    ],
)
def test_what_devices_call_passes_as_it_was_sent(edge: Edge, path: str):
    edge.seen.clear()
    assert edge.ask(f"POST {path} HTTP/1.1") == 200
    assert [seen.line for seen in edge.seen] == [f"POST {path} HTTP/1.1"]


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/V1/CONTROL/start-run",
        "/V1/FLEET/pull-messages",
        "/HEALTH",
        "/health/",
        "/health/../v1/control/start-run",
        "/metrics",
        "/docs",
        "/v1/fleet/",
        "/v1/fleet/a/b",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/..%2fcontrol/start-run",
        "/v1/fleet/..%2Fcontrol%2Fstart-run",
        "/v1/fleet/%252e%252e/control/start-run",
        "/v1/fleet/..;/control/start-run",
        "/v1/fleet/..\\control\\start-run",
        "/v1/fleet/pull-messages/../../control/start-run",
        "/v1/fleet/pull-messages?x=/v1/control/",
        "/v1/fleet/pull-messages#/../../control/start-run",
        "/v1/fleet/pull-messages%00",
        "/v1/fleet/pull-messages%0a",
        "/v1/%66leet/pull-messages",
        "/v1/%63ontrol/start-run",
        "/v1/./control/start-run",
        "//v1/control/start-run",
        "/v1//control/start-run",
        "//v1/fleet/pull-messages",
        "/v1//fleet/pull-messages",
        "/x/../v1/control/start-run",
        "https://fleet.example.org/v1/control/start-run",
        "https://x/v1/fleet/../control/start-run",
        "https://x/v1/fleet/pull-messages/../../control/start-run",
    ],
)
def test_nothing_else_passes(edge: Edge, target: str):
    edge.seen.clear()
    assert edge.ask(f"POST {target} HTTP/1.1") in (400, 403)
    assert not edge.seen


def test_a_target_with_a_host_is_judged_by_its_path(edge: Edge):
    edge.seen.clear()
    assert edge.ask("POST https://x/v1/fleet/pull-messages HTTP/1.1") == 200
    assert edge.seen[0].line == "POST /v1/fleet/pull-messages HTTP/1.1"


def test_claims_of_the_caller_are_dropped(edge: Edge):
    edge.seen.clear()
    claims = ("X-Forwarded-For: 198.51.100.7", "X-Fedhw-Control: a-guess", "Upgrade: h2c")
    assert edge.ask("POST /v1/fleet/pull-messages HTTP/1.1", *claims) == 200
    headers = edge.seen[0].headers
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert {"x-fedhw-control", "upgrade"}.isdisjoint(headers)


def test_an_underscore_is_no_hyphen(edge: Edge):
    edge.seen.clear()
    assert edge.ask("POST /v1/fleet/pull-messages HTTP/1.1", "X_Fedhw_Control: a-guess") == 200
    assert not [name for name in edge.seen[0].headers if "control" in name]


def test_a_body_beyond_the_bound_is_refused(edge: Edge):
    edge.seen.clear()
    assert edge.ask("POST /v1/fleet/push-object HTTP/1.1", length=17 * 2**20) == 413
    assert not edge.seen


def test_a_report_passes(edge: Edge):
    with edge.statistics() as channel:
        pb_grpc.StatisticsStub(channel).SendReport(pb.SendReportRequest(report=b"x"), timeout=30)


@pytest.mark.parametrize(
    "method",
    ["/fedhw.v1.Device/Learn", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"],
)
def test_another_method_does_not(edge: Edge, method: str):
    with edge.statistics() as channel:
        call = channel.unary_unary(method)
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=30)
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_a_report_beyond_the_bound_is_refused(edge: Edge):
    with edge.statistics() as channel:
        call = pb_grpc.StatisticsStub(channel).SendReport
        with pytest.raises(grpc.RpcError):
            call(pb.SendReportRequest(report=bytes(65 * 1024)), timeout=30)


def test_a_flood_is_slowed_by_an_answer_that_flower_waits_on(edge: Edge):
    trust = ssl.create_default_context(cafile=str(edge.authority))
    trust.check_hostname = False  # http.client would look for 127.0.0.1 in the certificate
    connection = HTTPSConnection("127.0.0.1", edge.flower_port, context=trust, timeout=30)
    statuses = set()
    for _ in range(900):  # on one connection, which is far faster than the bound
        connection.request("POST", "/v1/fleet/pull-messages")
        with connection.getresponse() as answer:
            answer.read()
            statuses.add(answer.status)
    connection.close()
    assert statuses == {200, 503}
