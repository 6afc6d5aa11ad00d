"""The dashboard as a list of queries, as Grafana would send them."""

import json
from typing import Any, NamedTuple

from tests.deploy.parts import DEPLOY

DASHBOARD = DEPLOY / "grafana" / "dashboards" / "fleet.json"

VARIABLES = {"$__rate_interval": "1m", "${datasource}": "prometheus"}


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
