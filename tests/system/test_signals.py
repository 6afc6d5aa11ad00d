"""However often a program is asked to end, it ends in good order."""

import signal
import subprocess
import sys

import pytest

SERVER = """
import asyncio
from fedhw.system.signals import stop_on_signals

async def serve():
    stop = asyncio.Event()
    stop_on_signals(stop.set)
    print("serving", flush=True)
    await stop.wait()

asyncio.run(serve())
print("closing", flush=True)
input()
print("closed")
"""

COMMAND = """
from fedhw.system.signals import interrupted_by_sigterm

try:
    with interrupted_by_sigterm():
        try:
            with interrupted_by_sigterm():
                print("serving", flush=True)
                input()
        finally:
            print("closing", flush=True)
            input()
            print("closed")
except KeyboardInterrupt:
    pass
"""


@pytest.mark.parametrize("program", [SERVER, COMMAND])
def test_a_second_signal_does_not_disturb_the_end(program: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=-1, stdout=-1, text=True
    ) as process:
        assert process.stdout is not None
        for said in ("serving", "closing"):
            assert process.stdout.readline() == f"{said}\n"
            process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate("\n", timeout=60)
    assert (rest, process.returncode) == ("closed\n", 0)
