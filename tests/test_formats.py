"""What earlier versions have left on a disk opens with the code of today, and nothing is lost."""

import json
import shutil
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography import x509

from fedhw.data.npz import load_npz
from fedhw.errors import InputError
from fedhw.handwriting.alphabet import BYCLASS, DIGITS
from fedhw.improvement.attempt import Stage
from fedhw.improvement.improvement import ImprovementState
from fedhw.improvement.public import Public
from fedhw.invitation import Invitation
from fedhw.privacy.budget import BudgetSpentError
from fedhw.privacy.ledger import Ledger
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.release.manifest import MANIFEST, WEIGHTS, Manifest
from fedhw.release.offer import State
from fedhw.release.registry import Registry
from fedhw.release.release import Release
from fedhw.release.signing import ReleaseKey
from fedhw_client.agent.adoption import Adoption
from fedhw_client.agent.agent import Agent
from fedhw_client.agent.correction import Correction
from fedhw_client.fleet.enrolment import Enrolment
from fedhw_client.store.corrections import Store
from fedhw_client.store.device_home import Home as DeviceHome
from fedhw_client.store.profile import Profile
from fedhw_server.fronts.certificates import make_certificates
from fedhw_server.store.coordinator_home import Home as CoordinatorHome
from fedhw_server.store.fleet import Fleet

FIXTURES = Path(__file__).parent / "fixtures"

Facts = dict[str, Any]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Copies of the files of 0.1, every release with its weights."""
    directory = tmp_path / "v0.1"
    shutil.copytree(FIXTURES / "v0.1", directory)
    weights = directory / WEIGHTS
    for manifest in directory.rglob(MANIFEST):
        shutil.copy(weights, manifest.parent)
    return directory


@pytest.fixture
def facts(files: Path) -> Facts:
    """What 0.1 said of them."""
    return json.loads((files / "facts.json").read_text())


# Releases and writers


def test_a_release_reads_as_it_did(files, facts):
    release, told = Release.load(files / "release"), facts["release"]
    unseen = load_npz(files / "unseen.npz")
    with torch.no_grad():
        scaled = release.expert.scale(unseen.observations)
        probabilities = release.expert(scaled).softmax(1).tolist()
    assert (release.manifest.name, release.manifest.digest) == (told["name"], told["digest"])
    assert sorted(release.trained_on) == told["trained on"]
    assert len(release.generic) == told["generic"]
    assert list(release.sketch.steps.shape) == told["sketch"]
    assert probabilities == [pytest.approx(row, abs=1e-5) for row in told["probabilities"]]


def test_a_release_of_format_1_opens_and_is_published(files, facts, tmp_path):
    older = Release.load(files / "release-of-format-1").manifest
    assert older.digest == facts["release"]["digest of format 1"]
    assert (older.restores, older.privacy) == (None, {"epsilon": 0.0, "delta": 0.0})
    registry = Registry(tmp_path / "registry", ReleaseKey.create(tmp_path / "release.key"))
    published = registry.publish(files / "release-of-format-1")
    assert (published.version, published.files) == (1, older.files)


def test_writers_open_with_an_alphabet_and_without(files, facts):
    told = facts["writers"]
    for name, classes in (
        ("writers.npz", DIGITS),
        ("writers-without-alphabet.npz", BYCLASS),
    ):
        writers = load_npz(files / name)
        assert writers.classes == classes
        assert list(writers.names) == told["names"]
        assert [writers.classes[label] for label in writers.labels] == told["labels"]
        assert writers.order.tolist() == told["order"]
        assert zlib.crc32(writers.observations.tobytes()) == told["images"]


# A coordinator


@pytest.fixture
def home(files: Path) -> CoordinatorHome:
    return CoordinatorHome(files / "coordinator")


@pytest.fixture
def registry(home: CoordinatorHome) -> Registry:
    return Registry(home.releases, ReleaseKey.load(home.release_key))


def test_a_registry_opens_and_goes_on(registry, home, facts):
    told = facts["coordinator"]
    assert ReleaseKey.load(home.release_key).public == told["public key"]
    found = registry.versions()
    assert [manifest.digest for manifest in found] == told["digests"]
    for manifest, was in zip(found, told["versions"], strict=True):
        for name in ("version", "parent", "restores", "privacy", "validation", "files"):
            assert getattr(manifest, name) == was[name]
    assert Release.load(home.releases / found[0].name).labels == DIGITS
    back = registry.rollback(2)
    assert (back.version, back.parent, back.restores) == (4, 3, 2)


def test_public_characters_open(registry, home, facts):
    public = Public.load(home.public)
    registry.release(1).check_fits(public.rehearsal)
    assert len(public.rehearsal) == facts["coordinator"]["rehearsal"]
    assert len(public.validation) == facts["release"]["generic"]


def test_certificates_are_those_that_devices_trust(home):
    authority = (home.certificates / "ca.crt").read_bytes()
    make_certificates(home.certificates, ["coordinator.example", "127.0.0.1"])
    assert (home.certificates / "ca.crt").read_bytes() == authority
    server = x509.load_pem_x509_certificate((home.certificates / "server.crt").read_bytes())
    server.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))


@pytest.mark.parametrize("name", ["coordinator", "coordinator-in-rounds", "coordinator-in-shadow"])
def test_a_fleet_is_what_it_was(files, facts, name):
    told = facts["coordinator"][name]
    with closing(Fleet(files / name / "fleet.db")) as fleet:
        attempts = fleet.attempts
        for what, value in told["policy"].items():
            assert getattr(fleet.policy, what) == value
        assert fleet.settings.is_paused is told["paused"]
        assert fleet.settings.get("statistics") == "coordinator.example:9092"
        devices = {one.name: [one.state, one.running, one.adoption] for one in fleet.members.all()}
        assert devices == told["devices"]
        assert [list(each) for each in fleet.offer_log.all()] == told["rounds of offers"]
        plan = attempts.plan
        for what in ("automatic", "rounds", "noise", "cohort", "survivors", "participations"):
            assert getattr(plan, what) == told["plan"][what]
        for attempt, was in zip(attempts.all(), told["attempts"], strict=True):
            for what in ("number", "parent", "stage", "since", "candidate", "version", "step"):
                assert getattr(attempt, what) == was[what]
            number = str(attempt.number)
            assert [
                [each.began, each.seconds, each.rho, each.summed, each.within]
                for each in attempt.rounds
            ] == [row[2:] for row in told["rounds"][number]]
            assert attempt.participations == told["participations"][number]
            assert attempt.progress == told["canaries"][number]
        assert [list(each) for each in attempts.decisions()] == told["decisions"]
        assert attempts.rho == told["rho"]


def test_reports_are_summed_up_as_they_were(files, facts):
    told = facts["coordinator"]["figures"]
    with closing(Fleet(files / "coordinator" / "fleet.db")) as fleet:
        assert [list(window) for window in fleet.reports.windows()] == told["windows"]
        for window, sums in told["sums"].items():
            found = fleet.reports.sums(int(window))
            assert {release: as_told(of) for release, of in found.items()} == sums
        for candidate, sums in told["candidate"].items():
            assert as_told(fleet.reports.shadow_sums(candidate)) == sums
        for name, key in facts["coordinator"]["report keys"].items():
            assert fleet.members.reporter(name) == (bytes.fromhex(key), name == "dan")


def as_told(sums: Any) -> Facts:
    """Sums as JSON has them."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(sums).items()}


def test_every_stage_of_an_attempt_is_taken_up_and_ends(files):
    for name, stage in (
        ("coordinator", Stage.ROLL_OUT),
        ("coordinator-in-rounds", Stage.ROUNDS),
        ("coordinator-in-shadow", Stage.SHADOW),
    ):
        with closing(Fleet(files / name / "fleet.db")) as fleet:
            attempts = fleet.attempts
            attempt = attempts.current
            assert attempt is not None
            assert attempt.stage == stage
            attempts.keep(replace(attempt, stage=Stage.STOPPED))
            assert attempts.current is None
            attempts.begin(1, "by hand")


def test_a_round_goes_on_from_where_an_improvement_stood(files):
    home = CoordinatorHome(files / "coordinator-in-rounds")
    state = ImprovementState.from_bytes((home.improvement / "6.safetensors").read_bytes())
    assert (state.round, state.radius) == (1, 12.5)
    assert state.parameters.tolist() == [0, 1, 2, 3]
    assert state.average.tolist() == [0, 0.5, 1, 1.5]


# A device


def rows_of(store: Store) -> list[list[object]]:
    return [
        [
            row.position,
            row.id,
            row.at,
            zlib.crc32(row.observation),
            row.label,
            row.ge_right,
            row.right,
        ]
        for row in store.rows()
    ]


@pytest.fixture
def device(files: Path) -> DeviceHome:
    return DeviceHome(files / "device")


def test_a_store_has_kept_everything(device, facts):
    told = facts["device"]
    with closing(Store(device.database)) as store:
        assert store.notices == []
        assert rows_of(store) == told["rows"]
        assert [list(window) for window in store.windows(100)] == told["windows"]
        assert list(store.totals()) == told["totals"]
        assert store.next_position == told["next position"]
        assert store.personal_version == told["personal version"]
        assert store.personal is not None
        assert store.personal.release == told["mixture of"]


def test_a_store_is_encrypted_when_it_is_opened(device):
    with closing(sqlite3.connect(device.database)) as db:
        plain = [bytes(glyph) for (glyph,) in db.execute("SELECT glyph FROM samples")]
        plain += [bytes(tensors) for (tensors,) in db.execute("SELECT tensors FROM personal")]
    assert any(one in device.database.read_bytes() for one in plain)
    with closing(Store(device.database)):
        files = list(device.directory.glob("device.db*"))
        assert not any(one[:512] in file.read_bytes() for file in files for one in plain)


def test_an_agent_reads_as_it_did_and_goes_on(device, files, facts):
    told, unseen = facts["device"], load_npz(files / "unseen.npz")
    with closing(Agent(Release.load(device.release), Store(device.database))) as agent:
        read = [agent.recognize(glyph) for glyph in unseen.observations]
        assert [[one.label, one.ge_label, one.le_label] for one in read] == told["recognised"]
        status, times = agent.status(), [row[2] for row in told["rows"]]
        accuracies = [status.ge_accuracy.right, status.accuracy.right, status.accuracy.guesses]
        assert accuracies == told["accuracy"]
        tally = agent.tally(min(times) - 1, max(times) + 1, (0,) * 10)
        assert {name: as_json(value) for name, value in vars(tally).items()} == told["tally"]
        agent.learn([Correction(unseen.observations[0], "7", "new")])
        assert [one.id for one in agent.recent(2)] == ["new", told["rows"][-1][1]]


def as_json(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_a_device_knows_which_releases_it_has_decided_about(device, registry):
    with closing(Agent(Release.load(device.release), Store(device.database))) as agent:
        public = Enrolment.load(device.enrolment).invitation.release_key
        adoption = Adoption(agent, device, public)
        states = [
            adoption.consider(parcel.manifest, parcel.signature, {}).state
            for parcel in (registry.parcel(version) for version in (1, 2, 3))
        ]
    assert states == [State.RUNNING, State.HELD_BACK, State.WANTED]


def test_an_enrolment_is_that_of_the_fleet(device, facts):
    enrolment = Enrolment.load(device.enrolment)
    key = enrolment.report_key.public_key().public_bytes_raw().hex()
    assert key == facts["coordinator"]["report keys"]["ann"]
    invitation = enrolment.invitation
    assert (invitation.device, invitation.token, invitation.window) == ("ann", "", 3600)
    assert invitation.release_key == facts["coordinator"]["public key"]


def test_an_invitation_can_still_be_accepted(files, facts):
    invitation = Invitation.load(files / "eve.invitation.json")
    assert invitation.device == "eve"
    assert (invitation.epsilon, invitation.delta, invitation.window) == (2.0, 1e-6, 3600)
    assert invitation.release_key == facts["coordinator"]["public key"]
    with closing(Fleet(files / "coordinator" / "fleet.db")) as fleet:
        assert fleet.members.enrol("eve", invitation.token, bytes(32), "a key").state == "enrolled"


def test_a_ledger_refunds_nothing(device, facts):
    told, ledger = facts["device"]["ledger"], Ledger.open(device.ledger)
    assert (ledger.limits.per_day, ledger.limits.in_all, ledger.limits.delta) == (4.0, 40.0, 1e-6)
    for what, now in (("spent", told["now"]), ("spent on the first day", 1_700_009_060.0)):
        assert list(ledger.spent(now)) == pytest.approx(told[what], rel=1e-6)
    history = ledger.history()
    assert [
        [c.about, c.at, c.epsilon, c.delta, c.sigma, zlib.crc32(c.message), c.sent_at]
        for c in history
    ] == told["history"]
    refused = {str(charge.about): charge.refused for charge in history if charge.refused}
    assert refused == told["refused"]
    assert [list(each) for each in ledger.rounds()] == told["rounds"]
    assert [charge.about for charge in ledger.unsent()] == told["unsent"]
    with pytest.raises(BudgetSpentError):
        ledger.charge(472_300, GaussianMechanism(4.0, 1e-6), told["now"], bytes)


def test_a_profile_moves_a_person(files, facts):
    content = (files / "ann.profile").read_bytes()
    profile = Profile.unseal(content, facts["profile"]["passphrase"])
    told = [row[1:] for row in facts["device"]["rows"]]
    assert [
        [row.id, row.at, zlib.crc32(row.observation), row.label, row.ge_right, row.right]
        for row in profile.rows
    ] == told


def test_a_damaged_store_gives_back_what_it_gave_back_then(files, facts):
    told = facts["damaged"]
    with closing(Store(files / "damaged" / "device.db")) as store:
        assert rows_of(store) == told["rows"]
        assert len(store.notices) == told["notices"]
    assert 0 < len(told["rows"]) < 24


# The way back: what a newer version has written is refused, in one sentence


def newer(database: Path) -> Path:
    with closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA user_version = 99")
    return database


def newer_text(path: Path, old: str) -> Path:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, '"format": 99'))
    return path


@pytest.mark.parametrize(
    "opens",
    [
        lambda files: Store(newer(files / "device" / "device.db")),
        lambda files: Ledger.open(newer(files / "device" / "ledger.db")),
        lambda files: Fleet(newer(files / "coordinator" / "fleet.db")),
        lambda files: Manifest.load(newer_text(files / "release" / MANIFEST, '"format": 2')),
        lambda files: Invitation.load(newer_text(files / "eve.invitation.json", '"format": 1')),
        lambda files: Profile.unseal(b"fedhw-profile\x63" + bytes(200), "correct horse"),
    ],
    ids=["store", "ledger", "fleet", "release", "invitation", "profile"],
)
def test_what_is_newer_is_refused_and_left_as_it_is(files: Path, opens: Callable[[Path], object]):
    with pytest.raises(InputError, match=r"99|update fedhw") as refused:
        opens(files)
    assert "\n" not in str(refused.value)
    assert rows_left(files / "device" / "device.db") == 29


def rows_left(database: Path) -> int:
    with closing(sqlite3.connect(database)) as db:
        (count,) = db.execute("SELECT count(*) FROM samples").fetchone()
        return int(count)
