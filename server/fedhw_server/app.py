"""The coordinator as a Flower ServerApp, and the process that runs it.

Flower would start one process to start another that unpacks the shipped app. This process acquires
the run's task itself and calls what is installed; when it ends, the supervisor starts it again, and
a new run with it.
"""

import os
import sys
from pathlib import Path

import httpx
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedhw.errors import InputError
from fedhw.logs import log_as_json
from fedhw.release.registry import Registry
from fedhw.release.signing import ReleaseKey
from fedhw_server import superlink
from fedhw_server.coordinator import coordinate
from fedhw_server.fleet import Fleet
from fedhw_server.home import Home
from fedhw_server.supervisor import die_with_parent

HOME = "FEDHW_SERVER_HOME"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Coordinate the fleet in `$FEDHW_SERVER_HOME`."""
    home = Home(Path(os.environ[HOME]))
    coordinate(
        grid, Fleet(home.database), Registry(home.releases, ReleaseKey.load(home.release_key))
    )


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
