"""Adoption of offered releases: verified, written whole, and used only if no worse for the person.

    an offer, without files ->  wanted  ->  the same with files  ->  learning  ->  running
                                                                               `-> held back
A refused offer changes nothing on disk.
"""

import os
import shutil
import threading
from collections.abc import Mapping

import structlog

from fedhw.release.manifest import MANIFEST, Manifest
from fedhw.release.offer import (
    Answer,
    Refusal,
    RefusedError,
    State,
    verify_files,
    verify_offer,
)
from fedhw.release.registry import SIGNATURE
from fedhw.release.release import Release
from fedhw.system.atomic import replacing
from fedhw.system.clock import Clock, SystemClock
from fedhw_client.agent.agent import Agent
from fedhw_client.agent.throttle import step_back
from fedhw_client.store.device_home import Home

RETRY_SECONDS = 60.0
"""Seconds after which a release whose adoption failed is tried again."""

log = structlog.get_logger()


class Adoption:
    """Answers offers that are signed with the release key, a public key in hexadecimal.

    It is safe to call from any thread. Local expert and gate are learned for the release in a
    thread; if the agent ends meanwhile, the next offer starts over. A device without a release, and
    so without an agent, installs the first one that it is offered.

    A decision leaks a little of the person's corrections to an operator who crafts releases, so a
    device decides about one release in `period` seconds. A rollback is always followed and leaks
    nothing.
    """

    def __init__(
        self,
        agent: Agent | None,
        home: Home,
        release_key: str,
        period: float = 0.0,
        clock: Clock = SystemClock(),
    ) -> None:
        self.installed = threading.Event()
        self._period = period
        self._clock = clock
        self._failed = ("", 0.0)
        self._agent = agent
        self._home = home
        self._release_key = release_key
        self._considering = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_learning = False

    def close(self) -> None:
        """Wait for a learning in progress; close the agent first, which hurries it."""
        with self._considering:
            if self._thread is not None:
                self._thread.join()

    def consider(self, manifest: bytes, signature: bytes, files: Mapping[str, bytes]) -> Answer:
        """Answer an offer; one without `files` asks whether they are wanted."""
        with self._considering:
            refusal = None
            try:
                state = self._considered(manifest, signature, files)
            except RefusedError as refused:
                log.warning("release refused", reason=refused.reason.value)
                state, refusal = State.REFUSED, refused.reason
            running = "" if self._agent is None else self._agent.release_name
            return Answer(state, running, refusal)

    def _considered(self, manifest: bytes, signature: bytes, files: Mapping[str, bytes]) -> State:
        learning = self._is_learning  # read first: when it turns False, the agent has the release
        in_hand = None if self._agent is None else self._agent.release.manifest
        offered = verify_offer(manifest, signature, self._release_key, in_hand)
        if in_hand is not None and offered.digest == in_hand.digest:
            return State.RUNNING
        if (self._home.held_back / offered.digest).exists():
            return State.HELD_BACK
        if learning:
            return State.LEARNING  # for another release; this one is next
        if self._has_decided(offered):
            return State.DEFERRED
        failed, at = self._failed
        if failed == offered.digest and self._clock.monotonic() - at < RETRY_SECONDS:
            raise RefusedError(Refusal.STORE, "home: the release could not be put to use")
        if not files or self.installed.is_set():
            return State.WANTED
        verify_files(offered, files)
        try:
            self._write({MANIFEST: manifest, SIGNATURE: signature, **files})
            if self._agent is None:
                self._home.install(self._home.incoming)
                shutil.rmtree(self._home.incoming, ignore_errors=True)
                self.installed.set()
                return State.LEARNING
        except OSError as error:
            raise RefusedError(
                Refusal.STORE,
                f"home: {self._home.directory} cannot be written ({error.strerror}); free some "
                "space",
            ) from None
        self._is_learning = True
        self._thread = threading.Thread(
            target=self._adopt, args=(self._agent, offered), name="adoption", daemon=True
        )
        self._thread.start()
        return State.LEARNING

    def _has_decided(self, offered: Manifest) -> bool:
        """Whether the last decision was less than `period` seconds ago."""
        if offered.restores is not None or not self._home.decided.exists():
            return False
        age = self._clock.wall() - self._home.decided.stat().st_mtime
        return abs(age) < self._period  # abs: a clock that was set back must not block for longer

    def _write(self, whole: Mapping[str, bytes]) -> None:
        with replacing(self._home.incoming, durable=True) as unfinished:
            unfinished.mkdir()
            for name, content in whole.items():
                (unfinished / name).write_bytes(content)

    def _adopt(self, agent: Agent, offered: Manifest) -> None:
        step_back()
        incoming, held_back = self._home.incoming, self._home.held_back
        try:
            if offered.restores is None:
                self._home.decided.touch(mode=0o600)
                os.utime(self._home.decided, (self._clock.wall(),) * 2)
            if agent.adopt(Release.load(incoming), lambda: self._home.install(incoming)):
                shutil.rmtree(held_back, ignore_errors=True)  # these are older than the new one
            else:
                with replacing(held_back / offered.digest, durable=True) as unfinished:
                    unfinished.touch()
        except Exception as error:  # of any kind: an immediate retry would fail again
            log.warning("release not adopted", release=offered.name, error=type(error).__name__)
            self._failed = (offered.digest, self._clock.monotonic())
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
            self._is_learning = False
