"""A Prometheus as `deploy/` sets it up, and what the dashboard asks it."""

import json
import math
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from tests.places import DEPLOY
from tests.waiting import free_port, until

DASHBOARD = DEPLOY / "grafana" / "dashboards" / "fleet.json"

CONFIG = DEPLOY / "prometheus"
RULES = sorted((CONFIG / "rules").glob("*.yml"))

VARIABLES = {"$__rate_interval": "1m", "${datasource}": "prometheus"}


class Prometheus:
    """A Prometheus that runs, asked over its API."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30)

    def get(self, path: str, **parameters: str) -> Any:
        return self._client.get(path, params=parameters).raise_for_status().json()["data"]

    def values(self, expr: str) -> list[float]:
        result = self.get("/query", query=expr)["result"]
        return [float(row["value"][1]) for row in result]

    def has(self, expr: str) -> bool:
        values = self.values(expr)
        return bool(values) and all(map(math.isfinite, values))


def rules() -> list[dict[str, Any]]:
    groups = [group for file in RULES for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def records() -> list[str]:
    return [rule["record"] for rule in rules() if "record" in rule]


@contextmanager
def watching(
    target: str, directory: Path, is_ready: Callable[[Prometheus], object]
) -> Iterator[Prometheus]:
    """Runs a Prometheus as `deploy/` sets it up, but for whom it watches and how often."""
    port = free_port()
    text = (CONFIG / "prometheus.yml").read_text("utf-8")
    for old, new in {
        "coordinator:9472": target,
        "rules/": f"{CONFIG}/rules/",
        "_interval: 15s": "_interval: 1s",
    }.items():
        assert old in text
        text = text.replace(old, new)
    (directory / "prometheus.yml").write_text(text, "utf-8")
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    asked = Prometheus(port)

    def has_begun() -> object:
        assert process.poll() is None, (directory / "log").read_text("utf-8")
        try:
            return is_ready(asked)
        except httpx.HTTPError:  # it does not listen, or is not ready
            return False

    try:
        until(has_begun)
        yield asked
    finally:
        process.terminate()
        process.wait(30)


class Query(NamedTuple):
    """An expression without variables, and the panel that asks it."""

    panel: str
    expr: str


def queries() -> list[Query]:
    """Return every query of the dashboard, those of annotations too."""
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    asked = [
        Query(panel["title"], _expanded(target["expr"]))
        for panel in panels(dashboard)
        for target in panel.get("targets", [])
    ]
    for annotation in dashboard["annotations"]["list"]:
        asked.append(Query(annotation["name"], _expanded(annotation["expr"])))
    return asked


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the panels that show something, those of collapsed rows too."""
    nested = [panel for row in dashboard["panels"] for panel in row.get("panels", [])]
    return [panel for panel in [*dashboard["panels"], *nested] if panel["type"] != "row"]


def _expanded(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, f"an unknown variable in {expr}"
    return expr
