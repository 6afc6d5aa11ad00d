"""The pad's endpoints and their guard, asked over a real connection to a real agent."""

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn

from fedhw.release.release import Release
from fedhw_client.agent.agent import Agent
from fedhw_client.pad.pad_server import HEADERS, MAX_BODY_BYTES, pad_app, pad_url
from fedhw_client.store.corrections import Selection, Store

TOKEN = "a-secret_of-this_test"
SEVEN = [[[10, 5], [88, 3], [40, 100]], [[25.5, 52], [80, 48]]]


@pytest.fixture(scope="module")
def agent(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    agent = Agent(release, Store(tmp_path_factory.mktemp("pad") / "device.db"))
    yield agent
    agent.close()


@pytest.fixture(scope="module")
def observed() -> list[float]:
    """The seconds of each recognition, as the metrics and reports are told them."""
    return []


@pytest.fixture(scope="module")
def pad(agent: Agent, observed: list[float]) -> Iterator[httpx.Client]:
    """A client that asks as the page does."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            pad_app(agent, observed.append, TOKEN, port),
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=1,
            ws="none",
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=asyncio.run, args=[server.serve(sockets=[listening])])
        thread.start()
        page = {"Origin": f"http://127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}
        with httpx.Client(base_url=pad_url(TOKEN, port), headers=page) as client:
            yield client
        server.should_exit = True
        thread.join()


@pytest.fixture(autouse=True)
def _afresh(agent: Agent) -> None:
    agent.forget(Selection())


def first_event(pad: httpx.Client) -> dict:
    with pad.stream("GET", "events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                return json.loads(line.removeprefix("data: "))
    raise AssertionError("no event")


def sentence(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status
    assert guarded(answer)
    return answer.json()["error"]


def guarded(answer: httpx.Response) -> bool:
    return all(answer.headers.get(name) == value for name, value in HEADERS.items())


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("", "text/html"), ("pad.css", "text/css"), ("pad.js", "text/javascript")],
)
def test_the_page_is_served_with_its_headers(pad, name, media_type):
    answer = pad.get(name)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(media_type)
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src")
    assert guarded(answer)


def test_the_page_names_no_other_place_and_no_inline_code(pad):
    html, css, js = (pad.get(name).text for name in ("", "pad.css", "pad.js"))
    assert html.count("<script") == 1
    assert not re.search(r"<style|style=|\son\w+=", html)
    for text in (html, css, js):
        assert set(re.findall(r"https?:[^'\"]*", text)) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize(
    "path", ["/", "/pad.js", "/wrong/", f"/{TOKEN}x/", f"/{TOKEN[:-1]}/", "/é/"]
)
def test_without_the_token_there_is_nothing(pad, path):
    assert sentence(pad.get(str(pad.base_url.copy_with(path=path))), 404) == "Not Found"


def test_nothing_else_is_there(pad):
    sentence(pad.get("device.db"), 404)
    sentence(pad.get("learn"), 405)
    sentence(pad.put("learn"), 405)


def test_both_names_of_loopback_are_answered_and_no_other(pad):
    port = pad.base_url.port
    assert pad.get("", headers={"Host": f"localhost:{port}"}).status_code == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", ""):
        assert "host:" in sentence(pad.get("", headers={"Host": host}), 421)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_cannot_ask(pad, agent, headers):
    assert "origin:" in sentence(pad.post("learn", json={}, headers=headers), 403)
    assert agent.status().corrections == 0


def test_an_origin_must_be_given_and_be_the_host_asked(pad):
    port = pad.base_url.port
    assert "origin:" in sentence(pad.post("undo", headers={"Host": f"localhost:{port}"}), 403)
    assert "origin:" in sentence(httpx.post(pad.base_url.join("undo")), 403)


def test_a_body_over_the_limit_is_refused(pad):
    assert "body:" in sentence(pad.post("recognize", content=b" " * (MAX_BODY_BYTES + 1)), 413)
    in_parts = (b" " * 1024 for _ in range(MAX_BODY_BYTES // 1024 + 1))
    assert "body:" in sentence(pad.post("recognize", content=in_parts), 413)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("", "body"),
        ("{", "body"),
        ("[]", "body"),
        ("[" * 100_000, "body"),
        (b"\xff\xfe", "body"),
        ("{}", "strokes"),
        ('{"strokes": 7}', "strokes"),
        ('{"strokes": []}', "strokes"),
        ('{"strokes": [[]]}', "strokes[0]"),
        ('{"strokes": [[[1, 2]], 3]}', "strokes[1]"),
        ('{"strokes": [[[1, 2], [3]]]}', "strokes[0]"),
        ('{"strokes": [[[1, 2, 3]]]}', "strokes[0]"),
        ('{"strokes": [[["1", "2"]]]}', "strokes[0]"),
        ('{"strokes": [[[true, false]]]}', "strokes[0]"),
        ('{"strokes": [[[1, null]]]}', "strokes[0]"),
        ('{"strokes": [{"x": 1}]}', "strokes[0]"),
        ('{"strokes": [[[NaN, 1]]]}', "strokes"),
        ('{"strokes": [[[0, Infinity]]]}', "strokes"),
        ('{"strokes": [[[0, 1e300]]]}', "strokes"),
        ('{"strokes": [[[0, %s]]]}' % ("9" * 400), "strokes[0]"),
        ('{"strokes": [[[0, %s]]]}' % ("9" * 5000), "body"),
        (json.dumps({"strokes": [[[1, 2]] * 10_001]}), "strokes"),
    ],
)
def test_bad_strokes_are_told_in_a_sentence(pad, agent, body, field):
    for what in ("recognize", "learn"):
        told = sentence(pad.post(what, content=body), 400)
        assert told.startswith(f"{field}: ")
        assert ";" in told
    assert agent.status().corrections == 0


@pytest.mark.parametrize("label", [None, "", 7, "é", "ab", "\ud800", "a" * 300])
def test_bad_labels_are_told_in_a_sentence(pad, agent, label):
    told = sentence(pad.post("learn", content=json.dumps({"strokes": SEVEN, "label": label})), 400)
    assert told.startswith("label: ")
    assert agent.status().corrections == 0


@pytest.mark.parametrize(
    "selection", [{}, {"everything": False}, {"id": 3}, {"id": "x", "label": "y"}, {"all": True}]
)
def test_forgetting_must_say_what(pad, agent, selection):
    pad.post("learn", json={"strokes": SEVEN, "label": "7"})
    assert ";" in sentence(pad.post("forget", json=selection), 400)
    assert agent.status().kept == 1


def test_a_character_is_recognised(pad, agent, observed):
    before = agent.status().recognitions
    heard = len(observed)
    told = pad.post("recognize", json={"strokes": SEVEN}).json()
    assert [seconds > 0 for seconds in observed[heard:]] == [True]
    assert agent.status().recognitions == before + 1
    assert [told["label"], told["probability"]] == list(told["candidates"][0].values())
    chances = [candidate["probability"] for candidate in told["candidates"]]
    assert len(chances) == 5
    assert chances == sorted(chances, reverse=True)
    assert told["ge"] == {"label": told["label"], "probability": told["probability"]}
    assert (told["le"], told["opening"], told["decided_by"]) == (None, 0, "global")


def test_many_points_are_recognised_as_few_are(pad):
    line = [[x / 10, x / 10] for x in range(1001)]
    many = pad.post("recognize", json={"strokes": [line]}).json()
    few = pad.post("recognize", json={"strokes": [line[::1000]]}).json()
    assert many["label"] == few["label"]


def test_learn_undo_forget(pad, agent):
    def learn(label: str) -> str:
        return pad.post("learn", json={"strokes": SEVEN, "label": label}).json()["id"]

    first, *_ = [learn(label) for label in "77fT7"]
    assert [kept.label for kept in agent.recent(9)] == list("7Tf77")
    assert pad.post("undo").json() == {"label": "7"}
    assert pad.post("forget", json={"id": first}).json() == {"forgotten": 1}
    assert pad.post("forget", json={"id": first}).json() == {"forgotten": 0}
    assert pad.post("forget", json={"label": "f"}).json() == {"forgotten": 1}
    assert [kept.label for kept in agent.recent(9)] == list("T7")
    assert pad.post("forget", json={"everything": True}).json() == {"forgotten": 2}
    assert pad.post("undo").json() == {"label": None}
    assert agent.status().kept == 0


def test_what_was_learned_is_told(pad):
    for _ in range(5):
        pad.post("learn", json={"strokes": SEVEN, "label": "x"})
    deadline = time.monotonic() + 60
    while (told := pad.post("recognize", json={"strokes": SEVEN}).json())["le"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert told["label"] == told["le"]["label"] == "x"
    assert told["ge"]["label"] != "x"
    assert told["decided_by"] == "local"


def test_events_tell_the_whole_state(pad, agent):
    empty = first_event(pad)
    assert (empty["kept"], empty["accuracy"], empty["recent"], empty["progress"]) == (
        0,
        None,
        [],
        [],
    )
    assert pad.get("labels").json() == list(agent.release.labels)
    name = pad.post("learn", json={"strokes": SEVEN, "label": "x"}).json()["id"]
    state = first_event(pad)
    [kept] = state["recent"]
    assert (kept["id"], kept["label"], kept["right"]) == (name, "x", False)
    assert kept["glyph"].startswith("data:image/png;base64,")
    assert state["progress"] == [{"number": 0, "guesses": 1, "ge_right": 0, "right": 0}]
    assert (state["kept"], state["accuracy"]) == (1, 0)


def test_events_follow_changes(pad):
    with pad.stream("GET", "events") as answer:
        kept = (
            json.loads(line.removeprefix("data: "))["kept"]
            for line in answer.iter_lines()
            if line.startswith("data: ")
        )
        assert next(kept) == 0
        pad.post("learn", json={"strokes": SEVEN, "label": "x"})
        assert next(kept) == 1


def test_a_page_that_was_closed_is_told_no_more(pad, agent):
    for _ in range(5):
        first_event(pad)
    deadline = time.monotonic() + 60
    while agent.listeners:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_failure_of_the_agent_keeps_the_headers_and_tells_nothing(pad, agent, monkeypatch):
    monkeypatch.setattr(agent, "undo", None)
    # The server hangs up after a failure, so the connection is not to be used again.
    assert "log" in sentence(pad.post("undo", headers={"connection": "close"}), 500)


def test_nothing_private_is_logged(pad, capfd):
    pad.post("learn", json={"strokes": SEVEN, "label": "Q"})
    pad.post("learn", json={"strokes": SEVEN, "label": "QQQ"})
    pad.get("nowhere")
    logged = "".join(capfd.readouterr())
    assert TOKEN not in logged
    assert "Q" not in logged
