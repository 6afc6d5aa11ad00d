"""Has devices try a candidate beside the release that they run.

send each the candidate's manifest, and the files where they are wanted
each says how far it is; what it finds it tells the statistics service, noised
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from flwr.serverapp import Grid
from google.protobuf.message import DecodeError

from fedhw.release.manifest import MANIFEST, Manifest
from fedhw.release.release import read_files
from fedhw.release.signing import ReleaseKey
from fedhw.v1 import release_pb2 as pb
from fedhw_server.leader.broadcast import Kind, request_all
from fedhw_server.store.members import Member

TRY = Kind("query.shadow", "offer")

ANSWER_TIMEOUT_SECONDS = 30.0
"""Seconds that devices have to answer."""

WANTED, EVALUATING, TOLD = "wanted", "evaluating", "told"

UNSETTLED = {WANTED, EVALUATING}
"""What a canary may say so that it is asked again."""

TryOut = Callable[[Mapping[int, Member], Path], Mapping[str, str]]
"""Has devices, by node, try the candidate in a directory; returns what each says, by name."""


def try_out(
    grid: Grid, key: ReleaseKey, devices: Mapping[int, Member], directory: Path
) -> dict[str, str]:
    """Ask devices once how far they are with a candidate; who does not answer is left out."""
    manifest = (directory / MANIFEST).read_bytes()
    files = read_files(directory, Manifest.parse(manifest, directory))
    signature = key.sign_candidate(manifest)
    asked = pb.Offer(manifest=manifest, signature=signature).SerializeToString()
    whole = pb.Offer(manifest=manifest, signature=signature, files=files).SerializeToString()
    said: dict[str, str] = {}
    served: set[int] = set()

    def take(node: int, content: bytes) -> bytes | None:
        shadow = pb.ShadowAnswer.FromString(content).shadow
        if shadow == pb.SHADOW_UNSPECIFIED or shadow not in pb.Shadow.values():
            raise DecodeError("an unknown word")
        if shadow == pb.SHADOW_WANTED and node not in served:
            served.add(node)
            return whole
        said[devices[node].name] = pb.Shadow.Name(shadow).removeprefix("SHADOW_").lower()
        return None

    request_all(grid, TRY, dict.fromkeys(devices, asked), ANSWER_TIMEOUT_SECONDS, take)
    return said
