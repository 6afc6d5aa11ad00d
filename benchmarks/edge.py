"""What a smaller local expert and an exported file cost and are worth, on real writers.

    python benchmarks/edge.py --data FILE.npz --release DIR [--writers 60] [--seed 0]

First: local experts of each rank, trained at it or cut from one of the recipe's rank, its columns
in order. Then: the same mixtures in torch, in fedhw's own numpy, and in ONNX Runtime with the
global expert in float32 and in int8; one glyph at a time, one thread, in turns. Writers learn from
a stratified half of their characters and are tested on the other half; generic characters are those
of the release that int8 was not calibrated on, through every writer's mixture.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from tables import show, spread

from fedhw.data.npz import load_npz
from fedhw.data.writers import stratified_split
from fedhw.experts.cost import cost_of_global
from fedhw.experts.mixture import Mixture
from fedhw.experts.one_sample import OneMixture, compile_for_one_sample
from fedhw.personalization.learner import Learner, PersonalMixture
from fedhw.personalization.method import Activations, Cohort, extract_features, pad_cohort
from fedhw.release.release import Release
from fedhw.research.onnx_export.elastic import first, ordered
from fedhw.research.onnx_export.export import CALIBRATED_ON, export

RANKS = (2, 4, 8, 10, 16)
FEWEST = 40
"""Characters of a writer who takes part."""

GENERIC = 2000
ROUNDS, WARM_UP = 4000, 500

Floats = NDArray[np.float64]
Model = Callable[[NDArray[np.uint8]], object]


class Reached(NamedTuple):
    """The share right of each writer's own characters and of generic ones, [W]."""

    writer: Floats
    generic: Floats

    @property
    def cells(self) -> tuple[str, str]:
        return spread(self.writer.tolist()), spread(self.generic.tolist())


class World(NamedTuple):
    """A release, the halves of writers whom it never saw, and generic characters."""

    release: Release
    learn: Cohort
    test: Cohort
    generic: Activations
    generic_labels: torch.Tensor

    @torch.no_grad()
    def reached(self, scores: Callable[[Activations], torch.Tensor]) -> Reached:
        """Judge what gives scores [W, N, C] of glyphs [W or 1, N]."""
        right = (scores(self.test.activations).argmax(-1) == self.test.labels) & self.test.mask
        own = right.sum(1) / self.test.mask.sum(1)
        generic = (scores(self.generic).argmax(-1) == self.generic_labels).double().mean(1)
        return Reached(*(part.double().numpy() for part in (own, generic)))


def open_world(release: Release, data: Path, writers: int, seed: int) -> World:
    everybody = load_npz(data)
    release.check_fits(everybody)
    rng = np.random.default_rng(seed)
    unseen = [
        w
        for w in np.flatnonzero(everybody.counts() >= FEWEST)
        if everybody.names[w] not in release.trained_on and everybody.classes_of(int(w)) > 1
    ]
    halves = []
    for w in sorted(rng.permutation(unseen)[:writers]):
        rows = everybody.rows_of(int(w))
        halves.append([rows[half] for half in stratified_split(everybody.labels[rows], rng)])
    learn, test = (
        pad_cohort(
            release.expert,
            [everybody.observations[rows] for rows in part],
            [everybody.labels[rows] for rows in part],
        )
        for part in zip(*halves, strict=True)
    )
    fresh = slice(CALIBRATED_ON, CALIBRATED_ON + GENERIC)
    generic = extract_features(release.expert, release.generic.observations[None, fresh])
    labels = torch.from_numpy(release.generic.labels[fresh].astype(np.int64))
    return World(release, learn, test, generic, labels)


def show_ranks(world: World, seed: int) -> Mixture:
    """Print the table of ranks and return the mixtures that the recipe gives."""
    release, learn = world.release, world.learn
    recipe, most = Learner().rank, max(RANKS)
    trained = {}
    for rank in RANKS:
        say(f"rank {rank}")
        learner = Learner(rank=rank)
        trained[rank] = learner.learn(release.expert, learn, release.sketch, seed)
    whole = ordered(trained[most].mixture, learn.activations.features)
    parameters = cost_of_global(release.expert).parameters
    nobody = world.reached(lambda activations: activations.scores.expand(len(learn.labels), -1, -1))
    rows = [["none", "0.00", *nobody.cells, "", "", ""]]
    for rank, personal in trained.items():
        at_once, lost = world.reached(personal.scores), ["", "", ""]
        if rank < most:
            cut = world.reached(PersonalMixture(first(whole, rank)).scores)
            lost = [*cut.cells, spread((cut.writer - at_once.writer).tolist(), "+")]
        share = personal.parameter_count() / parameters
        rows.append([f"{rank}", f"{100 * share:.2f}", *at_once.cells, *lost])
    show(
        [
            "rank",
            "extra parameters %",
            *("trained at it: writer %", "generic %"),
            *(f"cut from {most}: writer %", "generic %", "cut less trained, writer"),
        ],
        rows,
    )
    return trained[recipe].mixture


def show_models(world: World, mixture: Mixture) -> None:
    """Print the table of models."""
    release, one = world.release, mixture.split()[0]
    private = 4 * PersonalMixture(mixture).parameter_count()
    bare = (release.directory / "weights.safetensors").stat().st_size + private
    expert, look, mine = release.expert, compile_for_one_sample(release.expert), OneMixture.of(one)

    def by_torch(glyph: NDArray[np.uint8]) -> object:
        features = expert.features(expert.scale(glyph[None]))[None]
        return one.scores(features, expert.head(features))

    def by_numpy(glyph: NDArray[np.uint8]) -> object:
        features, scores = look(glyph)
        return scores + np.float32(mine.opening(features, scores)) * mine.residual(features)

    personal = PersonalMixture(mixture)
    rows: list[tuple[str, int, Reached]] = [
        ("torch, eager", bare, world.reached(personal.scores)),
        ("numpy, as devices run it", bare, world.reached(numpy_scores(release, mixture))),
    ]
    models: list[Model] = [by_torch, by_numpy]
    with tempfile.TemporaryDirectory() as folder:
        for name, int8 in (("ONNX, float32", False), ("ONNX, int8", True)):
            say(name)
            path = Path(folder) / "one.onnx"
            export(path, release, one, int8)
            size, model = path.stat().st_size, onnx.load(path)
            rows.append((name, size, world.reached(onnx_scores(model, mixture))))
            models.append(by_onnx(session(model)))
    took = in_turns(models, release.generic.observations[:ROUNDS])
    median, slowest = np.quantile(took[WARM_UP:] * 1e6, [0.5, 0.99], axis=0)
    show(
        ["model", "kB", "writer %", "generic %", "median, µs", "p99, µs", "median / torch's"],
        [
            (
                name,
                f"{size / 1000:.0f}",
                *reached.cells,
                f"{median[i]:.0f}",
                f"{slowest[i]:.0f}",
                f"{median[i] / median[0]:.2f}",
            )
            for i, (name, size, reached) in enumerate(rows)
        ],
    )


def numpy_scores(release: Release, mixture: Mixture) -> Callable[[Activations], torch.Tensor]:
    """Scores by `fedhw.experts.one_sample`, a glyph at a time."""
    look = compile_for_one_sample(release.expert)
    people = [OneMixture.of(writer) for writer in mixture.split()]

    def scores(activations: Activations) -> torch.Tensor:
        views = [[look(glyph) for glyph in images] for images in activations.observations]
        return torch.from_numpy(
            np.stack(
                [
                    [s + np.float32(me.opening(f, s)) * me.residual(f) for f, s in views[w]]
                    for w, me in zip(each_or_one(len(views), len(people)), people, strict=True)
                ]
            )
        )

    return scores


def onnx_scores(model: onnx.ModelProto, mixture: Mixture) -> Callable[[Activations], torch.Tensor]:
    """Scores by ONNX Runtime, the private tensors of one writer after the other in the graph."""

    def scores(activations: Activations) -> torch.Tensor:
        writers = mixture.split()
        shown = each_or_one(len(activations.observations), len(writers))
        return torch.from_numpy(
            np.stack(
                [
                    session(personal(model, writer)).run(
                        ["scores"], {"glyphs": activations.observations[i]}
                    )[0]
                    for i, writer in zip(shown, writers, strict=True)
                ]
            )
        )

    return scores


def each_or_one(glyphs: int, writers: int) -> Iterator[int]:
    """The place of each writer's glyphs; they may be everybody's."""
    return (w if glyphs > 1 else 0 for w in range(writers))


def personal(model: onnx.ModelProto, mixture: Mixture) -> onnx.ModelProto:
    """The same graph for somebody else."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    tensors = mixture.local._asdict() | mixture.gate._asdict()
    for each in other.graph.initializer:
        if each.name in tensors:
            array = tensors[each.name].contiguous().numpy()
            each.CopyFrom(onnx.numpy_helper.from_array(array, each.name))
    return other


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def by_onnx(runtime: onnxruntime.InferenceSession) -> Model:
    return lambda glyph: runtime.run(["scores"], {"glyphs": glyph[None]})


@torch.no_grad()
def in_turns(models: list[Model], glyphs: NDArray[np.uint8]) -> Floats:
    """Seconds [N, models] of each model for each glyph."""
    took = np.empty((len(glyphs), len(models)))
    for i, glyph in enumerate(glyphs):
        for j, model in enumerate(models):
            began = time.perf_counter()
            model(glyph)
            took[i, j] = time.perf_counter() - began
    return took


def say(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--writers", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    release = Release.load(arguments.release)
    world = open_world(release, arguments.data, arguments.writers, arguments.seed)
    show_models(world, show_ranks(world, arguments.seed))


if __name__ == "__main__":
    main()
