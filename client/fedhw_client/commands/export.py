"""`fedhw export`: writes the three networks to one ONNX file, for apps without fedhw."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhw.errors import InputError
from fedhw.system.console import needs, say

if TYPE_CHECKING:
    from fedhw.experts.mixture import Mixture
    from fedhw.release.release import Release


def export(
    release: Annotated[Path, typer.Argument(help="Release directory.")],
    out_file: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="File to write.")],
    profile: Annotated[
        Path | None,
        typer.Option(
            help="A profile that an agent exported: with what is learned from it. Asks for its "
            "passphrase where $FEDHW_PASSPHRASE has none."
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(min=1, help="Rank of the local expert; that of devices by default."),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise the global expert to int8.")
    ] = False,
) -> None:
    """Write the global expert, local expert and gate to one ONNX file.

    For example: fedhw export release letters.onnx
    """
    from fedhw.release.release import Release

    if out_file.is_dir():
        raise InputError(f"out: {out_file} is a directory; give a file")
    if rank is not None and profile is None:
        raise InputError(f"rank: {rank} applies to a profile; give --profile, too")
    with needs("edge"):
        from fedhw.research.onnx_export.export import export as write
    known = Release.load(release)
    mixture = None if profile is None else _learned(known, profile, rank)
    write(out_file, known, mixture, int8)
    of = "for anybody" if mixture is None else f"rank {mixture.local.u.shape[-1]}"
    size = out_file.stat().st_size / 1000
    say(f"{out_file}: {known.manifest.name}, {of}, {'int8, ' * int8}{size:.0f} kB")
    if mixture is not None:
        say("private: what it learned is one person's handwriting; keep it as you keep the profile")


def _learned(release: "Release", file: Path, rank: int | None) -> "Mixture":
    """Return the mixture that a device with this profile would learn, its columns in order."""
    import torch

    from fedhw.personalization.learner import Learner
    from fedhw.personalization.stream import Personalizer
    from fedhw.research.onnx_export.elastic import ordered

    with needs("client"):
        from fedhw_client.store.profile import Profile

    classes = len(release.labels)
    if rank is not None and rank > classes:
        raise InputError(f"rank: {rank} is more than the {classes} classes; give fewer")
    content = file.read_bytes()
    passphrase = os.environ.get("FEDHW_PASSPHRASE") or typer.prompt("Passphrase", hide_input=True)
    kept = Profile.unseal(content, passphrase)
    kept.check_fits(release)
    learner = Learner() if rank is None else replace(Learner(), rank=rank)
    person = Personalizer(release.expert, release.sketch, release.labels, learner)
    for row in kept.rows:
        person.keep(release.observation.from_bytes(row.observation), row.label)
    person.relearn(forced=True)
    if person.person.has_failed:
        raise InputError(
            f"release: {release.manifest.name} gives numbers that are not finite; give another one"
        )
    mixture, replay = person.person.mixture, person.person.replay
    if mixture is None:
        raise InputError(f"profile: {file} holds no corrections; correct some first")
    features = [torch.from_numpy(sample.features) for sample in replay.samples]
    return ordered(mixture, torch.stack(features)[None])
