import json

import pytest
from rich.table import Table
from rich.text import Text

from fedhw.system.console import err, out, say

RED_SCREEN = "\x1b[41m\x1b[2J\u202e"
ESCAPED = r"\u001b[41m\u001b[2J\u202e"


@pytest.mark.parametrize(
    "show",
    [
        lambda: say(RED_SCREEN),
        lambda: out.print(RED_SCREEN),
        lambda: out.print(Text(RED_SCREEN)),
        lambda: out.print_json(json.dumps({"label": "\x9b2J" + RED_SCREEN})),
        lambda: err.print(RED_SCREEN, markup=False, highlight=False, soft_wrap=True),
    ],
)
def test_no_text_steers_the_terminal(capsys, show):
    show()
    shown = "".join(capsys.readouterr())
    assert ESCAPED in shown
    assert not set(shown) & {"\x1b", "\x9b", "\u202e"}


def test_a_table_keeps_its_lines(capsys):
    table = Table("label")
    table.add_row(Text(RED_SCREEN))
    out.print(table)
    shown = capsys.readouterr().out
    assert ESCAPED in shown
    assert shown.count("\n") == 5


def test_a_sentence_is_one_line(capsys):
    say("published v1\npublished v2")
    assert capsys.readouterr().out == "published v1\\npublished v2\n"
