"""One round of an improvement: a secure sum of the devices' updates, over Flower.

    step       sent to each device              a device stays in the sum if it answers with
    advertise  the task                         its keys
    share      its neighbours' certified keys   an envelope for each neighbour
    mask       the envelopes for it             its masked vector: it has survived
    reveal     its surviving neighbours         its shares, which unmask the sum

The steps are those of `fedhw.privacy.secure_sum`. A device that is late, declines or answers
wrongly has dropped out; if too few are left, the round is abandoned and nothing is revealed.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import structlog
from flwr.serverapp import Grid
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from fedhw.improvement.contribution import Task
from fedhw.privacy.secret_sharing import Share
from fedhw.privacy.secure_sum import Keys, SumError, Terms, check_keys, graph, unmask
from fedhw.release.signing import ReleaseKey
from fedhw.system.clock import Clock, SystemClock
from fedhw.v1 import improvement_pb2 as pb
from fedhw_server.leader.broadcast import Kind, request_all
from fedhw_server.store.members import Member

STEP = Kind("train.sum", "request")

log = structlog.get_logger()


class Summed(NamedTuple):
    """A sum int64 [P + 1] of the contributors' vectors, and the devices' names.

    `asked` are all devices that were asked for a vector; those that came too late have paid, too.
    """

    total: NDArray[np.int64]
    contributors: tuple[str, ...]
    asked: tuple[str, ...]


class LateSumError(SumError):
    """A sum that failed after devices were asked for their vectors; those in `asked` have paid."""

    def __init__(self, sentence: str, asked: tuple[str, ...]) -> None:
        super().__init__(sentence)
        self.asked = asked


AddUp = Callable[[Mapping[int, Member], Task], Summed]
"""Sums a task over devices, by node; raises SumError where too few take part, LateSumError where
they drop out after they were asked for vectors."""


def secure_sum(
    grid: Grid,
    devices: Mapping[int, Member],
    task: Task,
    key: ReleaseKey,
    deadline: float,
    clock: Clock = SystemClock(),
) -> Summed:
    """Give a task to devices, by node, and return the sum of their vectors.

    Each of the four steps takes at most `deadline` seconds. Raises SumError where too few devices
    are left after a step, LateSumError from the step on that asks for vectors.
    """
    terms = task.terms(secrets.token_bytes(16))
    names = {node: device.name for node, device in devices.items()}
    steps = _Steps(grid, names, terms, deadline, clock)
    shown = steps.advertise(task)
    keys = _certified(terms, shown, devices.values(), key)
    neighbours = graph(list(keys), terms.minimum)
    envelopes = steps.share(keys, neighbours)
    asked = tuple(envelopes)
    try:
        masked = steps.mask(envelopes)
        shares = steps.reveal(masked, envelopes)
        passed_on = {name: keys[name] for name in asked}
        total = unmask(terms, neighbours, passed_on, masked, shares)
    except SumError as error:
        raise LateSumError(str(error), asked) from None
    log.info("summed", asked=len(devices), contributors=len(masked))
    return Summed(total, tuple(masked), asked)


def _certified(
    terms: Terms, shown: Mapping[str, pb.Keys], devices: Iterable[Member], key: ReleaseKey
) -> dict[str, Keys]:
    """Return the keys that devices have signed with their enrolled report keys."""
    known = {}
    for device in devices:
        if device.name in shown and device.report_key is not None:
            keys, certificate = shown[device.name], key.certify(device.name, device.report_key)
            own = (device.name, device.report_key, certificate)
            whole = Keys(*own, keys.mask_key, keys.share_key, keys.signature)
            try:
                check_keys(terms, whole, key.public)
            except SumError as error:
                log.warning("left out", device=device.name, reason=str(error))
            else:
                known[device.name] = whole
    return known


class _Steps:
    """The four exchanges of one sum; each returns the answers by device name."""

    def __init__(
        self, grid: Grid, names: Mapping[int, str], terms: Terms, deadline: float, clock: Clock
    ) -> None:
        self._grid = grid
        self._names = names
        self._terms = terms
        self._deadline = deadline
        self._clock = clock

    def advertise(self, task: Task) -> dict[str, pb.Keys]:
        request = self._request(pb.SumRequest(advertise=pb.Task(**vars(task))))
        answers = self._enough("keys", dict.fromkeys(self._names.values(), request))
        return {name: answer.keys for name, answer in answers.items()}

    def share(
        self, keys: Mapping[str, Keys], neighbours: Mapping[str, Collection[str]]
    ) -> dict[str, dict[str, bytes]]:
        shown = {name: pb.Keys(**each._asdict()) for name, each in keys.items()}
        requests = {}
        for name, others in neighbours.items():
            parts = pb.Neighbours(keys=[shown[other] for other in others])
            requests[name] = self._request(pb.SumRequest(share=parts))
        answers = self._enough("envelopes", requests)
        sent = {name: dict(answer.envelopes.by_device) for name, answer in answers.items()}
        return {name: each for name, each in sent.items() if each.keys() == {*neighbours[name]}}

    def mask(self, envelopes: Mapping[str, Mapping[str, bytes]]) -> dict[str, bytes]:
        requests = {}
        for name, others in envelopes.items():
            parts = {other: envelopes[other][name] for other in others if other in envelopes}
            mask = pb.Envelopes(by_device=parts)
            requests[name] = self._request(pb.SumRequest(mask=mask))
        answers = self._enough("vector", requests)
        size = -(-self._terms.entries * self._terms.bits // 8)
        return {n: answer.vector for n, answer in answers.items() if len(answer.vector) == size}

    def reveal(
        self, masked: Collection[str], envelopes: Mapping[str, Collection[str]]
    ) -> dict[str, dict[str, Share]]:
        requests = {}
        for name in masked:
            parts = pb.Survivors(devices=[other for other in envelopes[name] if other in masked])
            requests[name] = self._request(pb.SumRequest(reveal=parts))
        answers = self._asked("shares", requests)
        return {
            name: {
                other: Share(share.point, share.value)
                for other, share in answer.shares.by_device.items()
            }
            for name, answer in answers.items()
        }

    def _request(self, request: pb.SumRequest) -> bytes:
        request.sum = self._terms.sum
        return request.SerializeToString()

    def _enough(self, wanted: str, requests: Mapping[str, bytes]) -> dict[str, pb.SumAnswer]:
        """Send requests by device name; raises SumError where too few answer."""
        answers = self._asked(wanted, requests)
        if len(answers) < self._terms.minimum:
            raise SumError(
                f"{wanted}: {len(answers)} of {len(requests)} devices have sent theirs in time and "
                f"{self._terms.minimum} are needed; ask more of them, or later"
            )
        return answers

    def _asked(self, wanted: str, requests: Mapping[str, bytes]) -> dict[str, pb.SumAnswer]:
        """Send requests by device name; returns the answers of the wanted kind."""
        asked = {node: requests[name] for node, name in self._names.items() if name in requests}
        answers: dict[str, pb.SumAnswer] = {}
        declined: Counter[str] = Counter()

        def take(node: int, content: bytes) -> bytes | None:
            answer = pb.SumAnswer.FromString(content)
            kind = answer.WhichOneof("said")
            if kind == wanted:
                answers[self._names[node]] = answer
            elif kind == "declined" and answer.declined in pb.Decline.values():
                declined[pb.Decline.Name(answer.declined)] += 1
            elif kind == "training":
                return asked[node]
            else:
                raise DecodeError(f"no {wanted}")
            return None

        request_all(self._grid, STEP, asked, self._deadline, take, self._clock)
        log.info("step", of=wanted, asked=len(asked), answered=len(answers), **declined)
        return answers
