"""Adopts a release and is killed: `adopt_and_die.py HOME PUBLISHED KEY CALL NUMBER`.

It dies at the call of that number into the system after the release was learned for; at `installed`
when the release is in its place and its mixture is not, at `adopted` when both are.
"""

import os
import signal
import sys
from pathlib import Path

from fedhw.release.manifest import MANIFEST, SKETCH, WEIGHTS
from fedhw.release.registry import SIGNATURE
from fedhw.release.release import Release
from fedhw_client.agent.adoption import Adoption
from fedhw_client.agent.agent import Agent
from fedhw_client.store.corrections import Store
from fedhw_client.store.device_home import Home


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(call: str, number: int) -> None:
    original, calls = getattr(os, call), 0

    def counting(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == number:
            die()
        return original(*arguments, **options)

    setattr(os, call, counting)


def main(directory: str, published: str, public: str, call: str, number: str) -> None:
    home, place, install = Home(Path(directory)), Path(published), Home.install

    def dying(self: Home, release: Path) -> None:
        if hasattr(os, call):
            die_at(call, int(number))
        install(self, release)
        if call == "installed":
            die()

    Home.install = dying  # type: ignore[method-assign]
    with home.occupied():
        agent = Agent(Release.load(home.release), Store(home.database))
        adoption = Adoption(agent, home, public)
        files = {name: (place / name).read_bytes() for name in (WEIGHTS, SKETCH)}
        signature = (place / SIGNATURE).read_bytes()
        print(adoption.consider((place / MANIFEST).read_bytes(), signature, files).state)
        adoption.close()
        if call == "adopted":
            die()


if __name__ == "__main__":
    main(*sys.argv[1:])
