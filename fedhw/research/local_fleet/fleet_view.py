"""How a fleet on one machine looks: a live table in a terminal, plain lines anywhere else."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedhw.research.local_fleet.local_fleet import RECENT, DeviceLook, Look, Share, WindowLook
from fedhw.system.console import out, say

LONGEST_WRITER = 12


class FleetView:
    """Shows each look at a fleet and says what is new in it.

    While the context `live` is open, a terminal shows the table below what is said.
    """

    def __init__(self, window: int) -> None:
        self.live = Live(console=out, auto_refresh=False, transient=True)
        self._window = window
        self._before: Look | None = None
        self._windows_told: set[int] = set()

    def show(self, look: Look) -> None:
        """Show the state of the fleet, and say what is new since the look before."""
        for sentence in self._news(look):
            say(sentence)
        self._before = look
        self.live.update(Group(fleet_lines(look, self._window), device_table(look)), refresh=True)

    def _news(self, look: Look) -> Iterator[str]:
        before = {} if self._before is None else {each.name: each for each in self._before.devices}
        for device in look.devices:
            yield from _news_of(device, before.get(device.name))
        left = sum(device.failure is None for device in look.devices)
        for window in look.windows:
            is_whole = window.cohort >= left or window is not look.windows[-1]
            if is_whole and window.window not in self._windows_told:
                self._windows_told.add(window.window)
                yield _told(window, self._window)


def fleet_lines(look: Look, window: int) -> RenderableType:
    """Return two lines on the fleet as a whole; `window` is in seconds."""
    running = sum(device.running == look.release for device in look.devices)
    first = f"release {look.release} on {running} of {len(look.devices)} devices"
    rounds = f"{look.rounds} round{'' if look.rounds == 1 else 's'}"
    if look.windows:
        gain = _told(look.windows[-1], window)
    else:
        gain = f"gain: no window of {window} s is reported yet"
    return Text(f"{first}, {rounds}\n{gain}")


def gain_of(window: WindowLook) -> str:
    """Describe the gain that a window's reports estimate, beside the true one."""
    told = f"{window.cohort} reports"
    if window.true is None:
        return f"{told}; nobody wrote"
    low, high = (f"{100 * value:+.1f}" for value in (window.low, window.high))
    return (
        f"{told}, gain {100 * window.estimate:+.1f} points (99 %: {low} to {high}), "
        f"truly {100 * window.true:+.1f}"
    )


def device_table(look: Look) -> Table:
    """Return a table of the devices, 80 characters wide at most."""
    shown = Table(box=SIMPLE_HEAD, padding=0)
    for header in ("device", "writer", "online", "runs"):
        shown.add_column(header, no_wrap=True)
    for header in ("written", f"last {RECENT}\nGE → both", "all\nGE → both", "sent", "epsilon"):
        shown.add_column(header, justify="right", no_wrap=True)
    for device in look.devices:
        shown.add_row(
            device.name,
            Text(_shortened(device.writer)),
            "failed" if device.failure else "yes" if device.is_online else "no",
            device.running.partition("-")[0],
            f"{device.written}/{device.to_write}",
            _shares(device.recent),
            _shares(device.overall),
            str(device.reports),
            f"{device.epsilon:,.0f}",
        )
    return shown


def as_json(look: Look, failures: list[str]) -> dict[str, Any]:
    """Return what a look shows as it is written to a JSON file."""
    return {
        "release": look.release,
        "rounds": look.rounds,
        "devices": [
            {
                "name": device.name,
                "writer": device.writer,
                "online": device.is_online,
                "running": device.running,
                "written": device.written,
                "ge_right": device.overall.ge_right,
                "right": device.overall.right,
                "reports": device.reports,
                "epsilon": device.epsilon,
            }
            for device in look.devices
        ],
        "windows": [window._asdict() for window in look.windows],
        "failures": failures,
    }


def _news_of(device: DeviceLook, before: DeviceLook | None) -> Iterator[str]:
    if device.state == "enrolled" and (before is None or before.state != "enrolled"):
        yield f"{device.name} has enrolled"
    if device.running and (before is None or before.running != device.running):
        yield f"{device.name} runs {device.running}"
    if device.written and (before is None or not before.written):
        yield f"{device.name} writes"
    if device.written == device.to_write and before and before.written < device.to_write:
        yield f"{device.name} has written everything"
    if device.failure and (before is None or not before.failure):
        yield f"{device.name} failed: {device.failure}"


def _told(window: WindowLook, length: int) -> str:
    end = datetime.fromtimestamp((window.window + 1) * length)
    return f"until {end:%H:%M:%S}: {gain_of(window)}"


def _shares(share: Share) -> str:
    if not share.of:
        return ""
    return f"{100 * share.ge_right / share.of:.0f} → {100 * share.right / share.of:.0f} %"


def _shortened(name: str) -> str:
    """The end of a long name: the beginning is often the same for all writers."""
    return name if len(name) <= LONGEST_WRITER else f"…{name[1 - LONGEST_WRITER :]}"
