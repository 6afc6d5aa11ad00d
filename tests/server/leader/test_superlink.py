"""The contract with Flower: what fails here has changed there."""

import hashlib
import io
import os
import signal
import ssl
import subprocess
import sys
import zipfile

import httpx
import pytest
from flwr.common.constant import Status
from flwr.proto.control_pb2 import ListRunsRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, RegisterNodeFleetRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedhw_server.leader.superlink import (
    APP,
    HEADER,
    MAX_DEVICE_REQUEST_BYTES,
    Address,
    SuperLink,
    app_digest,
    flower_app,
    running,
)
from tests.server.conftest import Pen, answers
from tests.waiting import until

pytestmark = pytest.mark.superlink


@pytest.fixture(scope="module")
def stranger(link):
    """Speaks HTTP to the SuperLink without the secret."""
    trusting = ssl.create_default_context(cafile=str(link.address.certificate_authority))
    with httpx.Client(base_url=f"https://{link.address.at}", verify=trusting) as client:
        yield client


def raw(link, path, headers=()):
    """The status of a POST whose path is sent as it stands; httpx would clean it."""
    import socket

    trusting = ssl.create_default_context(cafile=str(link.address.certificate_authority))
    host, _, port = link.address.at.rpartition(":")
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Connection: close", "Content-Length: 0"]
    lines += ["Content-Type: application/x-protobuf", "Accept: application/x-protobuf", *headers]
    with (
        socket.create_connection((host, int(port))) as plain,
        trusting.wrap_socket(plain, server_hostname=host) as channel,
    ):
        channel.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(channel.recv(4096).split()[1])


def runs(link):
    return dict(link.superlink._control.ListRuns(ListRunsRequest()).run_dict)


FORBIDDEN = [
    "/v1/control/ListRuns",
    "/v1/control/start-run",
    "/v1/runtime/AcquireTask",
    "/v1/runtime",
    "/docs",
    "/openapi.json",
    "/",
    "/v1/fleet",
    "/health/",
    "/healthz",
    "//v1/control/ListRuns",
    "/V1/CONTROL/ListRuns",
    "/v1//control/ListRuns",
    "/./v1/control/ListRuns",
    "/v1/%63ontrol/ListRuns",
    "/v1/control%2fListRuns",
    "/v1%2Fcontrol%2FListRuns",
    "https://127.0.0.1/v1/control/ListRuns",
]

NOWHERE = [
    "/v1/fleet/../control/ListRuns",
    "/v1/fleet/%2e%2e/control/ListRuns",
    "/v1/fleet/..%2fcontrol/ListRuns",
    "/v1/fleet/%2e%2e%2fcontrol%2fListRuns",
    "/v1/fleet/./../control/ListRuns",
    "/v1/fleet//v1/control/ListRuns",
    "/v1/fleet/ListRuns",
]


def routes():
    """Every path that Flower serves."""
    from fastapi.routing import iter_route_contexts
    from flwr.superlink.main import create_app

    return {context.path for context in iter_route_contexts(create_app().routes)}


def test_every_path_of_flower_but_the_fleets_is_guarded(link):
    served = routes()
    assert len(served) > 40
    fleet = {path for path in served if path.startswith("/v1/fleet/")}
    assert len(fleet) > 5
    for path in served - fleet - {"/health"}:
        assert raw(link, path) == 403, path
    for path in fleet:
        assert raw(link, path) != 403, path


@pytest.mark.parametrize("path", FORBIDDEN)
def test_a_stranger_is_refused(link, path):
    assert raw(link, path) == 403
    assert raw(link, path, [f"{HEADER}: a guess"]) == 403
    assert raw(link, path, [f"{HEADER}:"]) == 403


@pytest.mark.parametrize("path", NOWHERE)
def test_a_path_that_looks_like_the_fleets_leads_nowhere(link, path):
    assert raw(link, path) in (403, 404)


def test_health_is_for_everybody(stranger):
    assert stranger.get("/health").status_code == 200
    assert stranger.get("/v1/control/ListRuns").status_code == 403


def test_a_device_cannot_send_without_end(link, stranger):
    path = "/v1/fleet/activate-node"
    assert path in routes()
    assert stranger.post(path, content=b"x" * MAX_DEVICE_REQUEST_BYTES).status_code != 413
    assert stranger.post(path, content=b"x" * (MAX_DEVICE_REQUEST_BYTES + 1)).status_code == 413
    pieces = (
        b"x" * 2**16 for _ in range(2 * MAX_DEVICE_REQUEST_BYTES // 2**16)
    )  # of no declared length
    assert stranger.post(path, content=pieces).status_code == 413


def test_the_secret_opens_it(link):
    paths = [path for path in routes() if path.endswith(("/list-runs", "/ListRuns"))]
    assert paths
    assert all(raw(link, path, [f"{HEADER}: the secret"]) != 403 for path in paths)
    guessed = SuperLink(link.address._replace(secret="a guess"))
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        guessed.nodes()
    guessed.close()


def test_another_authority_is_not_trusted(link, tmp_path):
    from fedhw_server.fronts.certificates import make_certificates

    make_certificates(tmp_path, ["127.0.0.1"])
    wrong = SuperLink(Address(link.address.at, tmp_path / "ca.crt", link.address.secret))
    with pytest.raises(httpx.HTTPError):
        wrong.nodes()
    wrong.close()


def test_nobody_answers(link):
    nobody = SuperLink(link.address._replace(at="127.0.0.1:1"))
    with pytest.raises(httpx.HTTPError):
        nobody.nodes()
    nobody.close()


def test_nodes_are_known_from_register_to_unregister(link):
    pen = Pen("pen")
    number = link.superlink.register(pen.node)
    assert link.superlink.nodes()[pen.node] == (number, False)
    link.superlink.unregister(number)
    assert pen.node not in link.superlink.nodes()
    with pytest.raises(httpx.HTTPStatusError, match="412"):
        link.superlink.register(pen.node)


def test_a_node_that_is_not_registered_stays_out(link):
    pen = Pen("stranger")
    public = pen.node.encode()
    with FleetHttpClient.from_server_address(
        link.address.at,
        False,
        link.address.trusted,
        interceptors=[
            RuntimeVersionHttpInterceptor("SuperNode"),
            NodeAuthHttpInterceptor(pen.node_key, pen.node_key.public_key()),
        ],
    ) as client:
        for call, request in (
            (client.RegisterNode, RegisterNodeFleetRequest(public_key=public)),
            (client.ActivateNode, ActivateNodeRequest(public_key=public, heartbeat_interval=10)),
        ):
            with pytest.raises(httpx.HTTPStatusError, match="412"):
                call(request)
    assert pen.node not in link.superlink.nodes()


def test_a_run_ends_the_ones_before(link):
    first, second = link.superlink.start_run(), link.superlink.start_run()
    states = {number: run.status.status for number, run in runs(link).items()}
    assert states[first] == Status.FINISHED
    assert states[second] != Status.FINISHED


def test_running_yields_a_grid_that_sees_the_nodes(link):
    with running(link.address) as (grid, context):
        assert list(grid.get_node_ids()) == []
        assert grid.run.run_id == context.run_id
        assert runs(link)[context.run_id].status.status == Status.RUNNING
        assert runs(link)[context.run_id].fab_hash == app_digest()
        assert list(grid.pull_messages([])) == []
        with running(link.address) as (second, other):
            assert list(second.get_node_ids()) == []
            assert runs(link)[context.run_id].status.status == Status.FINISHED
            assert other.run_id != context.run_id
            with pytest.raises(httpx.HTTPStatusError):
                grid.get_node_ids()


def test_registrations_outlive_a_kill(link):
    pen = Pen("pen")
    number = link.superlink.register(pen.node)
    starts = link.part.starts
    os.kill(link.part.pid, signal.SIGKILL)
    until(lambda: link.part.starts > starts and answers(link.superlink))
    assert link.superlink.nodes()[pen.node].node == number
    link.superlink.unregister(number)


def test_the_app_ships_no_code():
    with zipfile.ZipFile(io.BytesIO(flower_app())) as bundle:
        assert bundle.namelist() == ["pyproject.toml", ".info/CONTENT"]
        assert bundle.read("pyproject.toml") == APP
        digest = hashlib.sha256(APP).hexdigest()
        assert bundle.read(".info/CONTENT").decode() == f"pyproject.toml,{digest},{len(APP) * 8}"


def test_the_app_is_the_same_for_ever():
    # Every device that has enrolled compares this: another one needs all of them enrolled anew.
    known = "44119eb910580dca790c586433136788cec9c9d5a6635cb84a154d571cbac857"
    other = subprocess.run(
        [sys.executable, "-c", "from fedhw_server.leader.superlink import *; print(app_digest())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert app_digest() == other.stdout.strip() == known


def test_flower_reads_the_app_as_it_would_its_own():
    from flwr.cli.build import build_fab_from_files
    from flwr.cli.config_utils import get_fab_metadata

    theirs = build_fab_from_files({"pyproject.toml": APP})[0]
    assert get_fab_metadata(flower_app()) == get_fab_metadata(theirs)
