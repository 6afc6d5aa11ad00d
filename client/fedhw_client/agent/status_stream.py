"""The agent's status, now and whenever it has changed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from fedhw_client.agent.agent import Agent, Status

PAUSE_SECONDS = 0.2
"""Changes that follow each other faster are told as one."""


async def watch(agent: Agent) -> AsyncGenerator[Status, None]:
    """Yield the status at once and again after changes, at most five times a second."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        with suppress(RuntimeError):  # the loop may just have ended
            loop.call_soon_threadsafe(changed.set)

    end = agent.on_change(tell)
    try:
        while True:
            changed.clear()
            yield agent.status()
            await changed.wait()
            await asyncio.sleep(PAUSE_SECONDS)
    finally:
        end()
