"""What a stranger would ask a SuperLink to do, and how it answers; also from another network.

python tests/integration/steer.py HOST:PORT ca.crt
"""

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StartRunRequest
from flwr.supercore.control.control_http_client import ControlHttpClient

ORDERS: dict[str, Callable[[ControlHttpClient], object]] = {
    "list runs": lambda control: control.ListRuns(ListRunsRequest()),
    "register a node": lambda control: control.RegisterNode(RegisterNodeRequest(public_key=b"key")),
    "run code": lambda control: control.StartRun(StartRunRequest()),
}


def answers(at: str, authority: Path) -> dict[str, int]:
    """The status of each answer (RFC 9110, section 15)."""
    statuses = {}
    control = ControlHttpClient.from_server_address(at, False, authority.read_bytes(), [])
    with closing(control):
        for name, order in ORDERS.items():
            try:
                order(control)
                statuses[name] = 200
            except httpx.HTTPStatusError as error:
                statuses[name] = error.response.status_code
    return statuses


if __name__ == "__main__":
    print(answers(sys.argv[1], Path(sys.argv[2])))
