"""What reports have in common: one page of sections, with its figures as JSON beside it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape as escape_html
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from fedhw.errors import InputError
from fedhw.system.atomic import replacing
from fedhw.system.printable import printable

PAGE = "index.html"
SUMMARY = "summary.json"
MADE_FROM = "made_from"


def write_page(
    directory: Path,
    title: str,
    sections: Iterable[str],
    figures: Mapping[str, Any],
    made_from: str,
) -> None:
    """Write sections of HTML and the figures to `directory`, whole or not at all.

    `made_from` is a digest of all that decides the report. An earlier report there is replaced.
    Raises InputError when there is anything else.
    """
    check_place(directory)
    template = files("fedhw.research.reports").joinpath("report.html").read_text(encoding="utf-8")
    page = Template(template).substitute(title=title, sections="\n".join(sections))
    origin = {MADE_FROM: made_from} if made_from else {}
    content = json.dumps({**figures, **origin}, indent=2, allow_nan=False)
    with replacing(directory) as unfinished:
        unfinished.mkdir()
        (unfinished / PAGE).write_text(page, encoding="utf-8")
        (unfinished / SUMMARY).write_text(content + "\n", encoding="utf-8")


def is_report_from(directory: Path, made_from: str) -> bool:
    """Whether there is a report that was made from this."""
    try:
        figures = json.loads((directory / SUMMARY).read_bytes())
        return (directory / PAGE).is_file() and figures[MADE_FROM] == made_from
    except (OSError, ValueError, KeyError, TypeError):
        return False  # none, or that of an earlier version


def escape(text: str) -> str:
    """Return plain text as HTML, with its control characters escaped."""
    return escape_html(printable(text))


def check_place(directory: Path) -> None:
    """Raise InputError unless `directory` is new, empty or holds a report that can be replaced."""
    found = {p.name for p in directory.iterdir()} if directory.is_dir() else set()
    if found - {PAGE, SUMMARY} or directory.is_file():
        raise InputError(f"out: {directory} holds something else; give a directory of its own")


def section(heading: str, explanation: str, content: str) -> str:
    """Return a section as HTML; so are its parts."""
    return f"<section>\n<h2>{heading}</h2>\n<p>{explanation}</p>\n{content}\n</section>"


def side_by_side(sections: Iterable[str]) -> str:
    """Return sections with a picture each, side by side where the page is wide."""
    return '<div class="pictures">\n' + "\n".join(sections) + "\n</div>"


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], style: str = "", chosen: str = ""
) -> str:
    """Return a table of plain text as HTML; the row that begins with `chosen` is in bold."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = []
    for first, *others in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        mark = ' class="chosen"' if first == chosen else ""
        body.append(f'<tr{mark}><th scope="row">{escape(first)}</th>{cells}</tr>')
    return (
        f'<div class="wide"><table class="{style}">\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(body)
        + "\n</tbody></table></div>"
    )


def definitions(facts: Mapping[str, str]) -> str:
    """Return names and facts, both plain text, as a list in HTML."""
    items = (f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items())
    return "<dl>" + "\n".join(items) + "</dl>"
