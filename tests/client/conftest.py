"""A real agent in a home of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedhw.release.release import Release
from fedhw_client.agent.agent import Agent
from fedhw_client.store.corrections import Store


@pytest.fixture
def agent(release: Release, tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(release, Store(tmp_path / "device.db"))
    yield agent
    agent.close()
