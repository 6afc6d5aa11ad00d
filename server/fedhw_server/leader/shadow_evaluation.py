"""Shadow evaluation: devices compare a candidate with the release that they run.

Each device is sent the candidate's manifest, and the files if it wants them. It answers how far it
is, and sends its noised results to the statistics service.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from flwr.serverapp import Grid
from google.protobuf.message import DecodeError

from fedhw.improvement.actions import Progress
from fedhw.release.manifest import MANIFEST, Manifest
from fedhw.release.release import read_files
from fedhw.release.signing import ReleaseKey
from fedhw.system.clock import Clock, SystemClock
from fedhw.v1 import release_pb2 as pb
from fedhw_server.leader.broadcast import Kind, request_all
from fedhw_server.store.members import Member

EVALUATE = Kind("query.shadow", "offer")

ANSWER_TIMEOUT_SECONDS = 30.0
"""Seconds that devices have to answer."""

AskForEvaluations = Callable[[Mapping[int, Member], Path], Mapping[str, Progress]]
"""Asks devices, by node, about the candidate in a directory; returns answers by device name."""


def ask_for_evaluations(
    grid: Grid,
    key: ReleaseKey,
    devices: Mapping[int, Member],
    directory: Path,
    clock: Clock = SystemClock(),
) -> dict[str, Progress]:
    """Ask devices once about their evaluation of a candidate; returns the answers by name."""
    manifest = (directory / MANIFEST).read_bytes()
    files = read_files(directory, Manifest.parse(manifest, directory))
    signature = key.sign_candidate(manifest)
    first = pb.Offer(manifest=manifest, signature=signature).SerializeToString()
    whole = pb.Offer(manifest=manifest, signature=signature, files=files).SerializeToString()
    answers: dict[str, Progress] = {}
    served: set[int] = set()

    def take(node: int, content: bytes) -> bytes | None:
        shadow = pb.ShadowAnswer.FromString(content).shadow
        if shadow == pb.SHADOW_UNSPECIFIED or shadow not in pb.Shadow.values():
            raise DecodeError("an unknown word")
        if shadow == pb.SHADOW_WANTED and node not in served:
            served.add(node)
            return whole
        word = pb.Shadow.Name(shadow).removeprefix("SHADOW_").lower()
        answers[devices[node].name] = Progress(word)
        return None

    request_all(grid, EVALUATE, dict.fromkeys(devices, first), ANSWER_TIMEOUT_SECONDS, take, clock)
    return answers
