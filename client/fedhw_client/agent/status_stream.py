"""The agent's status as a stream for asyncio."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from fedhw_client.agent.agent import Agent, Status

PAUSE_SECONDS = 0.2
"""Shortest time between two statuses; changes in between are one."""


async def watch(agent: Agent) -> AsyncGenerator[Status, None]:
    """Yield the present status, and then one after each change, at most five a second."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        with suppress(RuntimeError):  # the loop may have ended
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
