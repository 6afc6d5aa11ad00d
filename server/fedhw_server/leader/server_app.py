"""The coordinator as a Flower ServerApp, and the process that runs it.

Flower would start one process that starts another one, which unpacks the shipped app. This process
acquires the run's task itself and calls the installed app. When it ends, the supervisor starts it
again with a new run.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedhw.errors import InputError
from fedhw.release.registry import Registry
from fedhw.release.signing import ReleaseKey
from fedhw.system.logs import log_as_json
from fedhw_server.leader import superlink
from fedhw_server.leader.improver import Improver
from fedhw_server.leader.offering import coordinate
from fedhw_server.leader.secure_round import secure_sum
from fedhw_server.leader.shadow_evaluation import ask_for_evaluations
from fedhw_server.leader.supervisor import die_with_parent
from fedhw_server.store.coordinator_home import Home
from fedhw_server.store.fleet import Fleet

HOME = "FEDHW_SERVER_HOME"

SUM_STEP_SECONDS = 60.0
"""Seconds that devices have for each step of a secure sum; in one of them they train."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Coordinate the fleet in `$FEDHW_SERVER_HOME`."""
    run_server_app(grid, Home(Path(os.environ[HOME])))


def run_server_app(grid: Grid, home: Home, ended: Callable[[], bool] = lambda: False) -> None:
    """Coordinate the fleet in a home until `ended` returns True."""
    key, fleet = ReleaseKey.load(home.release_key), Fleet(home.database)
    registry = Registry(home.releases, key)
    add_up = partial(secure_sum, grid, key=key, deadline=SUM_STEP_SECONDS)
    improver = Improver(home, fleet, registry, add_up, partial(ask_for_evaluations, grid, key))
    coordinate(grid, fleet, registry, improver, ended)


def run(at: str) -> None:
    """Run the ServerApp against the SuperLink at HOST:PORT until either ends."""
    die_with_parent()
    log_as_json()
    home = Home(Path(os.environ[HOME]))
    secret = os.environ.pop(superlink.SECRET)
    address = superlink.Address(at, home.certificates / "ca.crt", secret)
    try:
        with superlink.running(address) as (grid, context):
            app(grid, context)
    except (httpx.HTTPError, InputError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    run(sys.argv[1])
