"""Supervises a part of the coordinator: a child process that is restarted when it ends."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from fedhw.system.clock import Clock, SystemClock

SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
"""Seconds between an end and the next start: doubled each time, up to the longest."""

STEADY_SECONDS = 60.0
"""Seconds of uptime after which the pause starts over."""

STOP_GRACE_SECONDS = 5.0
"""Seconds that a part has to end after SIGTERM."""

LARGEST_LOG_BYTES = 16 * 2**20
"""Bytes after which a part's log is truncated, since unauthenticated callers make Flower log."""

LOG_CHECK_SECONDS = 60.0
"""Seconds between two checks of the log's size."""

PARENT = "FEDHW_PARENT"
"""The environment variable that has the coordinator's process id."""

PR_SET_PDEATHSIG = 1
"""prctl(2)."""

log = structlog.get_logger()


class Part:
    """One child process, with its `name` in logs and metrics and its log file `output`.

    It runs `command` in `environment`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        output: Path,
        clock: Clock = SystemClock(),
    ) -> None:
        self.name = name
        self._clock = clock
        self.starts = 0
        self.command = command
        self.environment = {**environment, PARENT: str(os.getpid())}
        self._output = output
        self._process: asyncio.subprocess.Process | None = None

    @property
    def is_up(self) -> bool:
        """Whether the process runs now."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """The id of the newest process, None before the first one."""
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """What the newest process ended with, None while it runs."""
        return None if self._process is None else self._process.returncode

    @property
    def restarts(self) -> int:
        """How often it was restarted."""
        return max(self.starts - 1, 0)

    async def keep(self) -> None:
        """Run the process and restart it when it ends; cancelling ends it."""
        pause = SHORTEST_PAUSE_SECONDS
        try:
            while True:
                began = self._clock.monotonic()
                try:
                    await self._run()
                except OSError as error:
                    log.error("not started", part=self.name, reason=error.strerror)
                if self._clock.monotonic() - began > STEADY_SECONDS:
                    pause = SHORTEST_PAUSE_SECONDS
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        finally:
            await self._end()

    async def _run(self) -> None:
        with self._output.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.starts += 1
        log.info("started", part=self.name, pid=self._process.pid)
        code = await self._ended(self._process)
        log.warning("ended", part=self.name, code=code)

    async def _ended(self, process: asyncio.subprocess.Process) -> int:
        while True:
            if self._output.stat().st_size > LARGEST_LOG_BYTES:
                os.truncate(self._output, 0)  # the part appends, so it goes on at the start
            with suppress(TimeoutError):
                return await asyncio.wait_for(process.wait(), LOG_CHECK_SECONDS)

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_GRACE_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


def die_with_parent() -> None:
    """Have the kernel kill this process when the coordinator dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[PARENT]):
        sys.exit("the coordinator has ended already")
