"""The contract with Flower's Fleet API: a real SuperLink, a real run, and SuperNodes in it."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedhw.system.clock import SystemClock
from fedhw_client.fleet import supernode
from fedhw_client.fleet.supernode import SuperNode
from fedhw_server.leader.superlink import KnownNode, app_digest, running
from tests.client.fleet.coordinators import SuperLinkProcess, public_pem
from tests.waiting import until

pytestmark = pytest.mark.superlink

LARGE = bytes(range(256)) * 2400
"""About what a release of LeNet-5 has."""


@pytest.fixture(scope="module")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuperLinkProcess]:
    with closing(SuperLinkProcess(tmp_path_factory.mktemp("flower") / "superlink")) as process:
        yield process


@pytest.fixture(scope="module")
def grid(superlink: SuperLinkProcess) -> Iterator[Grid]:
    with running(superlink.address) as (grid, _):
        yield grid


class App(ClientApp):
    """Echoes what it is sent, as soon as it may."""

    def __init__(self) -> None:
        super().__init__()
        self.received = 0
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.query("release")(self._echo)
        self.query("failure")(self._fail)

    def _echo(self, message: Message, context: Context) -> Message:
        self.received += 1
        assert self.may_answer.wait(60)
        content = message.content["fedhw"]["offer"]
        return Message(RecordDict({"fedhw": ConfigRecord({"answer": content})}), reply_to=message)

    def _fail(self, message: Message, context: Context) -> Message:
        raise LookupError("anna wrote Q")


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def node(superlink: SuperLinkProcess, app: App) -> Iterator[SuperNode]:
    with closing(SuperNode(superlink.enrolled(), app)) as node:
        until(lambda: node.is_online)
        yield node


def known(superlink: SuperLinkProcess, node: SuperNode) -> KnownNode:
    """What Flower knows of it."""
    return superlink.control.nodes()[public_pem(node.enrolment.node_key)]


def offer(content: bytes, node: int, action: str = "release") -> Message:
    record = RecordDict({"fedhw": ConfigRecord({"offer": content})})
    return Message(record, node, f"query.{action}", ttl=60.0)


def answers(grid: Grid, *messages: Message) -> list[Message]:
    """What comes back, in the order of the questions."""
    asked = list(grid.push_messages(messages))
    assert all(asked)
    found: dict[str, Message] = {}

    def all_there() -> bool:
        left = set(asked) - found.keys()
        found.update((m.metadata.reply_to_message_id, m) for m in grid.pull_messages(left))
        return len(found) == len(asked)

    until(all_there)
    return [found[name] for name in asked]


def test_large_messages_go_to_and_fro(grid, superlink, node, app):
    own = known(superlink, node).node
    assert own in list(grid.get_node_ids())
    contents = [LARGE, b"", LARGE[::-1]]
    replies = answers(grid, *(offer(content, own) for content in contents))
    assert [reply.content["fedhw"]["answer"] for reply in replies] == contents
    assert {reply.metadata.src_node_id for reply in replies} == {own}
    assert app.received == 3


def test_each_device_gets_its_own(grid, superlink, node, app):
    other = App()
    with closing(SuperNode(superlink.enrolled(), other)) as second:
        until(lambda: second.is_online)
        numbers = [known(superlink, one).node for one in (node, second)] * 2
        replies = answers(grid, *(offer(str(own).encode(), own) for own in numbers))
    for own, reply in zip(numbers, replies, strict=True):
        assert reply.metadata.src_node_id == own
        assert reply.content["fedhw"]["answer"] == str(own).encode()
    assert (app.received, other.received) == (2, 2)


def test_of_an_error_only_the_type_leaves_the_device(grid, superlink, node, app, capfd):
    own = known(superlink, node).node
    failed, unknown = answers(grid, offer(b"", own, "failure"), offer(b"", own, "anything"))
    assert failed.error.code == unknown.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert failed.error.reason == "LookupError"
    assert unknown.error.reason.isidentifier()
    logged = "".join(capfd.readouterr())
    assert "LookupError" in logged
    assert "anna" not in logged
    # And it goes on.
    [reply] = answers(grid, offer(b"fine", own))
    assert reply.content["fedhw"]["answer"] == b"fine"


def test_the_run_of_another_app_is_refused(grid, superlink, app):
    agreed = "0" * len(app_digest())
    with closing(SuperNode(superlink.enrolled(agreed), app)) as node:
        until(lambda: node.is_online)
        [reply] = answers(grid, offer(LARGE, known(superlink, node).node))
    assert reply.error.code == ErrorCode.INVALID_FAB
    assert app.received == 0


class Ahead(SystemClock):
    """A clock that somebody has set wrong."""

    def wall(self) -> float:
        return super().wall() + 3600.0


def test_a_device_whose_clock_is_wrong_is_let_in(superlink, app):
    with closing(SuperNode(superlink.enrolled(), app, Ahead())) as node:
        until(lambda: node.is_online)
        until(lambda: known(superlink, node).is_online)


def test_what_is_too_large_is_not_taken(grid, superlink, node, app, monkeypatch):
    own = known(superlink, node).node
    monkeypatch.setattr(supernode, "MAX_MESSAGE_BYTES", 100_000)
    grid.push_messages([offer(LARGE, own)])
    until(lambda: not node.is_online)
    until(lambda: node.is_online)
    [reply] = answers(grid, offer(b"small", own))
    assert reply.content["fedhw"]["answer"] == b"small"
    assert app.received == 1


def test_who_leaves_is_offline_at_once(superlink, node):
    assert known(superlink, node).is_online
    node.close()
    assert not known(superlink, node).is_online
    assert not node.is_online


def test_who_is_revoked_gets_nothing_and_stays_out(grid, superlink, node, app):
    own = known(superlink, node).node
    superlink.control.unregister(own)
    until(lambda: not node.is_online)
    assert own not in list(grid.get_node_ids())
    time.sleep(2)  # it asks again, and again in vain
    assert not node.is_online
    assert app.received == 0
    node.close()
    assert not node.is_alive


def test_a_coordinator_that_hangs_does_not_keep_a_device(grid, superlink, node, app):
    app.may_answer.clear()
    grid.push_messages([offer(b"", known(superlink, node).node)])
    until(lambda: app.received)
    superlink.process.send_signal(signal.SIGSTOP)
    try:
        app.may_answer.set()  # so it must be told the answer
        leaving = threading.Thread(target=node.close)
        leaving.start()
        leaving.join(5)
        assert not leaving.is_alive()
    finally:
        superlink.process.send_signal(signal.SIGCONT)


# The last ones: from here on this process makes messages of another run.
@pytest.mark.parametrize("forgets", [False, True])
def test_it_comes_back_when_the_superlink_was_killed(tmp_path, app, forgets):
    with ExitStack() as parts:
        superlink = parts.enter_context(closing(SuperLinkProcess(tmp_path / "superlink")))
        node = parts.enter_context(closing(SuperNode(superlink.enrolled(), app)))
        until(lambda: node.is_online)
        superlink.kill()
        until(lambda: not node.is_online)
        if forgets:
            for file in superlink.directory.glob("superlink.db*"):
                file.unlink()
        superlink.start()
        if forgets:
            superlink.control.register(public_pem(node.enrolment.node_key))
        until(lambda: node.is_online)
        grid, _ = parts.enter_context(running(superlink.address))
        [reply] = answers(grid, offer(LARGE, known(superlink, node).node))
        assert reply.content["fedhw"]["answer"] == LARGE
