"""Each type of observation through all that a device, a coordinator and a simulation do with it."""

import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from fedhw.data.npz import load_npz, save_npz
from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.experts.evaluation import accuracy
from fedhw.improvement.improvement import Improvement, Recipe
from fedhw.improvement.public import Public
from fedhw.observation import ObservationType
from fedhw.personalization.stream import Personalizer
from fedhw.privacy.estimate import Sums, estimate
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.privacy.statistics import LATENCIES, check_report, make_report
from fedhw.release.registry import Registry
from fedhw.release.release import Release
from fedhw.release.signing import ReleaseKey
from fedhw.research.baselines import METHODS
from fedhw.research.onnx_export.export import export
from fedhw.research.reports.writers_report import write_report
from fedhw.research.simulation.engines.local import LocalEngine
from fedhw.research.simulation.experiment import run_experiment
from fedhw.research.simulation.population import RecordedPopulation
from fedhw.research.simulation.simulated_rounds import take_round
from fedhw.research.simulation.trial import Trial
from fedhw_client import connect
from fedhw_client.agent.agent import Agent
from fedhw_client.store.corrections import Store
from fedhw_client.store.profile import Profile
from fedhw_client.store.salvage import carve
from tests.fed_avg_m import FedAvgM
from tests.observations.conftest import USED, Kind

PASSPHRASE = "correct horse"


def kept_by(store: Path) -> list[tuple[bytes, str]]:
    with closing(Store(store)) as opened:
        return [(row.observation, row.label) for row in opened.rows()]


def given(kind: Kind, order: int, each: int, seed: int) -> list[tuple[bytes, str]]:
    corrections = kind.corrections(order, each, seed)
    return [(one.observation.tobytes(), one.label) for one in corrections]


def test_writers_come_back_from_a_file(kind: Kind, launch: WriterSet, tmp_path: Path) -> None:
    save_npz(tmp_path / "writers.npz", launch)
    again = load_npz(tmp_path / "writers.npz")
    assert again.observation == launch.observation
    assert again.classes == kind.labels
    assert np.array_equal(again.observations, launch.observations)


def test_a_person_is_learned(kind: Kind, made: Release) -> None:
    me = Personalizer(made.expert, made.sketch, made.labels)
    for one in kind.corrections(1, each=6, seed=1):
        me.learn_one(one.observation, one.label)
    fresh = kind.corrections(1, each=2, seed=2)
    right = [me.predict_one(one.observation).label == one.label for one in fresh]
    alone = [me.predict_one(one.observation).ge_label == one.label for one in fresh]
    assert np.mean(right) > 0.8
    assert np.mean(alone) < 0.2


def test_the_store_keeps_what_was_given(kind: Kind, made: Release, tmp_path: Path) -> None:
    corrections = kind.corrections(1, each=3, seed=1)
    with closing(Agent(made, Store(tmp_path / "device.db"))) as agent:
        agent.learn(corrections)
        before = [agent.recognize(one.observation).ge_label for one in corrections]
    with closing(Agent(made, Store(tmp_path / "device.db"))) as agent:
        assert [agent.recognize(one.observation).ge_label for one in corrections] == before
        [newest] = agent.recent(1)
        kept = made.observation.from_bytes(newest.observation)
        assert np.array_equal(kept, corrections[-1].observation)
        assert newest.label == corrections[-1].label
    assert kept_by(tmp_path / "device.db") == given(kind, 1, 3, 1)


def test_an_agent_that_is_killed_has_kept_what_it_acknowledged(
    kind: Kind, made: Release, tmp_path: Path
) -> None:
    home, corrections = tmp_path / "home", kind.corrections(1, each=3, seed=1)
    command = [sys.executable, "-m", "fedhw", "client", "--home", home, "--release"]
    agent = subprocess.Popen([*command, made.directory], stdout=subprocess.PIPE, text=True)
    try:
        assert agent.stdout.readline()  # it says where it listens
        with connect(home) as device:
            said = device.describe()
            assert (tuple(said.observation.shape), said.observation.dtype) == (
                made.observation.shape,
                made.observation.dtype,
            )
            assert tuple(said.labels) == kind.labels.texts
            assert said.architecture == kind.architecture
            for one in corrections:
                assert device.recognize(one.observation).label in kind.labels
            device.learn_many([(one.observation, one.label) for one in corrections])
            for wrong in (np.zeros((3, 3), np.float32), np.zeros(made.observation.shape, bool)):
                with pytest.raises(InputError, match="observation: "):
                    device.recognize(wrong)
            with pytest.raises(InputError, match="label: 'nothing' is not known; use one of "):
                device.learn(corrections[0].observation, "nothing")
    finally:
        agent.kill()
        agent.wait()
        agent.stdout.close()
    assert kept_by(home / "device.db") == given(kind, 1, 3, 1)


def test_a_damaged_store_is_salvaged(kind: Kind, made: Release, tmp_path: Path) -> None:
    database = tmp_path / "device.db"
    with closing(Agent(made, Store(database))) as agent:
        agent.learn(kind.corrections(1, each=3, seed=1))
    whole = bytearray(database.read_bytes())
    whole[:4096] = bytes(4096)  # neither a header nor a schema is left
    database.write_bytes(whole)
    assert [(row.observation, row.label) for row in carve(database)] == given(kind, 1, 3, 1)
    with closing(Agent(made, Store(database))) as agent:
        assert agent.status().kept == 3 * USED


def test_a_profile_moves_a_person_to_a_device_of_the_same_type(
    kind: Kind, made: Release, tmp_path: Path
) -> None:
    with closing(Agent(made, Store(tmp_path / "old.db"))) as old:
        old.learn(kind.corrections(1, each=3, seed=1))
        sealed = old.export_profile(PASSPHRASE)
    with closing(Agent(made, Store(tmp_path / "new.db"))) as new:
        assert new.import_profile(sealed, PASSPHRASE) == 3 * USED
    assert kept_by(tmp_path / "new.db") == given(kind, 1, 3, 1)

    profile = Profile.unseal(sealed, PASSPHRASE)
    other = Profile([], ObservationType((5, 5), "int16"), kind.labels).seal(PASSPHRASE)
    assert (profile.observation, profile.labels) == (made.observation, made.labels)
    with (
        closing(Agent(made, Store(tmp_path / "new.db"))) as new,
        pytest.raises(InputError, match=r"its observations are int16 \[5, 5\] and v0-"),
    ):
        new.import_profile(other, PASSPHRASE)


def test_a_report_counts_every_class(kind: Kind, made: Release, tmp_path: Path) -> None:
    with closing(Agent(made, Store(tmp_path / "device.db"))) as agent:
        agent.learn(kind.corrections(1, each=3, seed=1))
        tally = agent.tally(0, time.time() + 1, (0,) * (len(LATENCIES) + 1))
    assert len(tally.errors) == len(kind.labels)
    assert sum(tally.errors) == tally.corrections - tally.right == 3 * USED
    mechanism = GaussianMechanism(1000.0, 0.1)
    one, other = (
        make_report(tally, name, 1, made.manifest.name, mechanism) for name in ("anna", "berta")
    )
    check_report(one, len(kind.labels))
    found = estimate(Sums.of(one) + Sums.of(other), len(kind.labels), 2) or ()
    accuracy = {each.name: each for each in found}["ge_accuracy"]
    assert abs(accuracy.mean) < 6 * accuracy.standard_error < 1
    with pytest.raises(InputError):
        check_report(one, len(kind.labels) + 1)


def test_a_round_makes_the_expert_better_for_people_who_differ(
    kind: Kind, made: Release, launch: WriterSet
) -> None:
    people = kind.people([1] * 6, each=8, seed=5)
    own = [people.take(people.rows_of(w)) for w in range(len(people.names))]
    recipe = Recipe(rounds=8, rate=0.05, noise=0.0, writers=2, rehearsal=0.1)
    recipe = Recipe(**vars(recipe) | {"optimiser": FedAvgM(1.0, 0.5)})
    improvement = Improvement(made.expert, Public.of(launch, made), recipe)
    state, random = improvement.begin(), np.random.default_rng(0)
    for _ in range(recipe.rounds):
        state = take_round(improvement, state, own, random)
    better = improvement.expert(state)
    fresh = kind.people([1], each=4, seed=6)
    before = accuracy(made.expert, fresh.observations, fresh.labels)
    assert accuracy(better, fresh.observations, fresh.labels) > before + 0.1


def test_a_release_is_published_and_offered(kind: Kind, made: Release, tmp_path: Path) -> None:
    key = ReleaseKey.create(tmp_path / "release.key")
    parcel_of = Registry(tmp_path / "releases", key)
    parcel = parcel_of.parcel(parcel_of.publish(made.directory).version)
    script = (
        "import sys; from pathlib import Path; from fedhw.release.offer import verify_offer\n"
        "content, signature, key = sys.argv[1:]\n"
        "offered = verify_offer(Path(content).read_bytes(), bytes.fromhex(signature), key, None)\n"
        "print(offered.observation, len(offered.labels))"
    )
    (tmp_path / "manifest.json").write_bytes(parcel.manifest)
    given = [tmp_path / "manifest.json", parcel.signature.hex(), key.public]
    ran = subprocess.run([sys.executable, "-c", script, *given], capture_output=True, text=True)
    assert ran.stdout.strip() == f"{made.observation} {len(kind.labels)}", ran.stderr


def test_an_exported_file_gives_the_same_scores(kind: Kind, made: Release, tmp_path: Path) -> None:
    me = Personalizer(made.expert, made.sketch, made.labels)
    for one in kind.corrections(1, each=4, seed=1):
        me.keep(one.observation, one.label)
    me.relearn(forced=True)
    export(tmp_path / "device.onnx", made, me.person.mixture)
    session = onnxruntime.InferenceSession(tmp_path / "device.onnx")
    fresh = kind.people([1], each=2, seed=2)
    scores, gate, alone = session.run(None, {session.get_inputs()[0].name: fresh.observations})
    with torch.no_grad():
        expected = made.expert(made.expert.scale(fresh.observations))
    np.testing.assert_allclose(alone, expected, rtol=1e-3, atol=1e-3)
    for row, observation in enumerate(fresh.observations):
        one = me.predict_one(observation)
        assert kind.labels[int(scores[row].argmax())] == one.label
        assert gate[row, 0] == pytest.approx(one.opening, abs=1e-3)
    said = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(said["labels"])) == kind.labels.texts
    assert ("alphabet" in said) == kind.labels.are_characters


def test_a_simulation_reports_of_it(kind: Kind, made: Release, tmp_path: Path) -> None:
    people = kind.people([1, 2, 3], each=8, seed=8)
    population = RecordedPopulation.of(people, range(3))
    methods = {name: METHODS[name] for name in ("ge", "moe")}
    experiment = run_experiment(Trial(made, population, methods, "half", seed=0), LocalEngine())
    assert experiment.gain("moe").mean() > 0.5
    write_report(experiment, tmp_path / "report")
    assert kind.labels[-1] in (tmp_path / "report" / "index.html").read_text()
