import os
import re
import signal
import socket
import urllib.request
from pathlib import Path

import pytest

from fedhw.errors import InputError
from fedhw_server.leader.coordinator_process import Settings, run
from fedhw_server.store.coordinator_home import Home
from tests.parts import lack
from tests.server.conftest import Coordinator, Pen, channel_to, open_fleet
from tests.waiting import until

pytestmark = pytest.mark.superlink


def fetched(coordinator):
    url = f"http://127.0.0.1:{coordinator.port('metrics')}/metrics"
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()


def children(coordinator):
    pid = coordinator.process.pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("coordinator") / "home")
    coordinator = Coordinator(home, "--window", 10, "--epsilon", 50, "--minimum-cohort", 2)
    yield home, coordinator
    coordinator.kill()


def test_it_comes_up_whole(coordinator):
    home, running = coordinator
    until(lambda: '"ready"' in running.logged)
    until(
        lambda: (
            {
                'fedhw_part_up{part="superlink"} 1.0',
                'fedhw_part_up{part="serverapp"} 1.0',
            }
            <= set(fetched(running).splitlines())
        )
    )
    modes = {path.name: path.stat().st_mode & 0o777 for path in home.directory.iterdir()}
    assert home.directory.stat().st_mode & 0o777 == 0o700
    assert modes["fleet.db"] == modes["release.key"] == 0o600
    assert modes["tls"] == modes["flower"] == 0o700


def test_flower_takes_up_who_is_enrolled_and_drops_who_is_revoked(coordinator):
    home, _ = coordinator
    with open_fleet(home) as fleet:
        Pen("pen").join(fleet)
        until(lambda: fleet.members.get("pen").node is not None)
        fleet.members.revoke("pen")
        until(lambda: fleet.members.get("pen").node is None)


def test_parts_that_are_killed_come_back(coordinator):
    _, running = coordinator
    until(lambda: len(children(running)) == 2)
    before = set(children(running))
    for pid in before:
        os.kill(int(pid), signal.SIGKILL)
    until(lambda: len(children(running)) == 2 and not before & set(children(running)))
    until(lambda: 'fedhw_part_restarts_total{part="superlink"} 1.0' in fetched(running))


def test_nobody_learns_the_secret(coordinator):
    home, running = coordinator
    pid = next(iter(children(running)))
    environment = Path(f"/proc/{pid}/environ").read_bytes().decode()
    secret = re.search(r"FEDHW_CONTROL_SECRET=([^\0]+)", environment)[1]
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children(running)]
    files = [path.read_bytes() for path in home.directory.rglob("*") if path.is_file()]
    for place in (*commands, *files, running.said.encode(), running.logged.encode()):
        assert secret.encode() not in place


def refused(settings):
    """The sentence that a coordinator ends with that cannot start."""
    with pytest.raises(InputError) as caught:
        run(settings, lambda _: None)
    return str(caught.value)


def test_a_home_has_one_coordinator(coordinator):
    home, _ = coordinator
    assert home.is_occupied()
    assert "is in use by another coordinator" in refused(Settings(home))


def test_what_was_agreed_stays(home, fleet):
    fleet.members.invite("pen")
    assert refused(Settings(home, epsilon=3.0)) == (
        "epsilon: 3 is not the 50 that devices have agreed to; leave it out"
    )
    assert not home.is_occupied()


@pytest.mark.parametrize("option", ["port", "flower_port", "metrics_port"])
def test_a_port_that_is_taken_is_one_sentence(home, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = dict.fromkeys(("port", "flower_port", "metrics_port"), 0) | {option: port}
        sentence = refused(Settings(home, **ports))
    assert sentence.startswith(f"{option.replace('_', '-')}: {port} ")
    assert sentence.endswith("cannot be used (Address already in use); give one that is free")
    assert not list(home.flower.glob("*.log"))  # no part was started


def test_it_ends_in_good_order_while_a_device_is_connected(home):
    running = Coordinator(home)
    until(lambda: len(children(running)) == 2)
    known = children(running)
    with channel_to(home, running.port("statistics")):
        assert running.stop() == 0
    assert not any(map(lives, known))
    assert '"stopped"' in running.logged
    assert "Traceback" not in running.logged


def test_no_part_goes_on_alone_when_it_is_killed(home):
    running = Coordinator(home)
    until(lambda: len(children(running)) == 2)
    known = children(running)
    running.kill()
    until(lambda: not any(map(lives, known)))


@pytest.mark.parametrize(
    ("host", "advertise", "reached", "called"),
    [
        ("127.0.0.1", None, "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", None, socket.getfqdn(), "127.0.0.1"),
        ("::", "fleet.example.org", "fleet.example.org", "::1"),
        ("10.0.0.7", None, "10.0.0.7", "10.0.0.7"),
    ],
)
def test_where_it_is_reached(home, host, advertise, reached, called):
    settings = Settings(home, host, advertise)
    assert (settings.reached_at, settings.called_at) == (reached, called)


def test_it_serves_ipv6(home):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        lack("IPv6", "sysctl net.ipv6.conf.lo.disable_ipv6=0")
    running = Coordinator(home, "--host", "::1", "--metrics-host", "::1")
    assert re.search(r"^statistics: \[::1\]:\d+$", running.said, re.MULTILINE), running.logged
    with open_fleet(home) as fleet:
        fleet.members.invite("pen")
        Pen("quill").join(fleet)
        until(lambda: fleet.members.get("quill").node is not None)
    running.kill()
