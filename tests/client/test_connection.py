import asyncio
import signal
from pathlib import Path

import numpy as np
import pytest

from fedhw.errors import InputError
from fedhw_client import AgentMissingError, Device, connect, connect_async
from fedhw_client.commands.replay_writer import running_agent

CROSS = np.maximum(np.eye(28, dtype=np.uint8), np.eye(28, dtype=np.uint8)[::-1]) * 255
BAR = np.zeros((28, 28), np.uint8)
BAR[4:24, 13:15] = 255


def test_a_home_with_characters_that_mean_something_to_a_url(release_directory, tmp_path):
    home = tmp_path / "100%25 #1?"
    home.mkdir()
    with running_agent(home, release_directory) as (device, _):
        assert device.recognize(CROSS).label


def test_a_proxy_is_never_asked(release_directory, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
    with running_agent(tmp_path, release_directory) as (device, _):
        assert device.status().alphabet


def test_after_an_interrupt_the_next_answer_is_the_next_glyphs(release_directory, tmp_path):
    with running_agent(tmp_path, release_directory) as (device, process):
        cross, bar = device.recognize(CROSS), device.recognize(BAR)
        assert cross.candidates[0] != bar.candidates[0]
        process.send_signal(signal.SIGSTOP)  # it answers later
        # As Ctrl+C does, which a test in the background would not get.
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            device.recognize(BAR)
        signal.signal(signal.SIGALRM, before)
        process.send_signal(signal.SIGCONT)
        assert device.recognize(CROSS) == cross
        assert device.recognize(BAR) == bar


def test_asyncio_outlives_a_restart_and_a_cancelled_question(release_directory, tmp_path):
    async def run() -> None:
        device = connect_async(tmp_path)
        with running_agent(tmp_path, release_directory) as (_, process):
            cross = await device.recognize(CROSS)
            process.send_signal(signal.SIGSTOP)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(device.recognize(BAR), 0.3)
            process.send_signal(signal.SIGCONT)
            assert await device.recognize(CROSS) == cross
        with pytest.raises(AgentMissingError):
            await device.recognize(CROSS)
        with running_agent(tmp_path, release_directory):
            assert await device.recognize(CROSS) == cross
            await device.learn(CROSS, "Q")
            assert (await device.status()).kept == 1
        await device.close()

    asyncio.run(run())


def test_a_correction_is_sent_again_to_an_agent_that_was_restarted(release_directory, tmp_path):
    with connect(tmp_path) as device:
        for kept in (1, 2):
            with running_agent(tmp_path, release_directory):
                device.learn(CROSS, "Q")
                assert device.status().kept == kept


def test_writing_that_does_not_fit_is_refused(release_directory, tmp_path):
    with running_agent(tmp_path, release_directory) as (device, _):
        for writing, named in (
            (np.zeros((14, 56), np.uint8), "shape"),
            (np.zeros((28, 28), np.int64), "dtype"),
            (np.full((28, 28), np.nan), "0..1"),
            (np.full((28, 28), 255.0), "0..1"),
        ):
            with pytest.raises(InputError, match=named):
                device.recognize(writing)


@pytest.mark.parametrize(
    "strokes", [[np.zeros((3, 3))], [["a", "b"]], [[[1, 2], [3]]], [None], "seven", [b"7"]]
)
def test_strokes_that_are_none_are_refused_without_an_agent(strokes, tmp_path: Path):
    with connect(tmp_path) as device, pytest.raises(InputError, match="strokes"):
        device.recognize(strokes)


@pytest.mark.parametrize("label", [7, 7.0, b"7", ["7"]])
def test_a_label_of_another_type_is_refused_without_an_agent(label, tmp_path: Path):
    said = "label: .* is not a text but of type .*; give a str"
    with connect(tmp_path) as device:
        with pytest.raises(InputError, match=said):
            device.learn([np.zeros((2, 2))], label)
        with pytest.raises(InputError, match=said):
            device.forget(label=label)


def test_floats_and_bytes_are_the_same_glyph(release_directory, tmp_path):
    with running_agent(tmp_path, release_directory) as (device, _):
        assert device.recognize(CROSS / 255) == device.recognize(CROSS)


def test_what_to_forget_is_named_once(tmp_path: Path):
    device: Device = connect(tmp_path)
    for names in ({}, {"id": "a", "label": "b"}, {"label": "b", "everything": True}):
        with pytest.raises(InputError, match="forget"):
            device.forget(**names)
