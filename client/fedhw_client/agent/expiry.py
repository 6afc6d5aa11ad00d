"""Forgets corrections that are older than the person wants to keep."""

import threading
from collections.abc import Callable

import structlog

from fedhw.system.clock import DAY_SECONDS, Clock
from fedhw.system.sqlite import StoreError
from fedhw_client.agent.durable_person import DurablePerson
from fedhw_client.agent.throttle import step_back
from fedhw_client.store.corrections import Selection

LONGEST_PAUSE_SECONDS, SHORTEST_PAUSE_SECONDS = 600.0, 1.0
"""Limits of the time between two checks, which else is as long as a correction may be kept."""

log = structlog.get_logger()


class Expiry:
    """Calls `forget` for corrections older than `keep_days`, in a thread of its own."""

    def __init__(
        self,
        person: DurablePerson,
        forget: Callable[[Selection], object],
        keep_days: float,
        clock: Clock,
    ) -> None:
        self._person = person
        self._forget = forget
        self._keep_seconds = keep_days * DAY_SECONDS
        self._pause_seconds = max(
            SHORTEST_PAUSE_SECONDS, min(self._keep_seconds, LONGEST_PAUSE_SECONDS)
        )
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="expiry", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after a check in progress."""
        self._stopping.set()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        step_back()
        while not self._stopping.is_set():
            expired = Selection(end=self._clock.wall() - self._keep_seconds)
            try:
                with self._person.store() as store:
                    found = store.select(expired)
                if found:
                    self._forget(expired)
            except StoreError as error:
                log.warning("not forgotten yet", reason=str(error))
            self._clock.wait(self._stopping, self._pause_seconds)
