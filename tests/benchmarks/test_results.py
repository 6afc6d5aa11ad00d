"""The page of results: what is replaced in it, and that every block has a section that makes it."""

import doctest
import re
import sys
from importlib import import_module
from pathlib import Path

import page
import pytest
import results
from hypothesis import given
from hypothesis import strategies as st

from fedhw.errors import InputError
from tests.places import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page of its own, and a folder for what is made."""
    place = tmp_path / "results.md"
    monkeypatch.setattr(results, "PAGE", place)
    monkeypatch.setattr(results, "WORK", tmp_path / "work")
    return place


# No mark is made of these.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<\r"), max_size=60)
NAMES = st.lists(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), min_size=1, max_size=5, unique=True)


def written(names: list[str], prose: list[str], contents: list[str]) -> str:
    """A page of blocks with prose before, between and after them."""
    first, *others = prose
    parts = [
        f"<!-- bench: {name} -->\n\n{content}\n\n<!-- end -->\n{after}\n"
        for name, content, after in zip(names, contents, others, strict=True)
    ]
    return "".join([first, "\n", *parts])


@st.composite
def pages(draw: st.DrawFn) -> tuple[list[str], list[str], list[str]]:
    names = draw(NAMES)
    prose = draw(st.lists(TEXT, min_size=len(names) + 1, max_size=len(names) + 1))
    contents = draw(st.lists(TEXT, min_size=len(names), max_size=len(names)))
    return names, prose, contents


@given(parts=pages(), content=TEXT, data=st.data())
def test_a_block_is_replaced_and_nothing_else(
    parts: tuple[list[str], list[str], list[str]],
    content: str,
    data: st.DataObject,
):
    names, prose, contents = parts
    chosen = data.draw(st.sampled_from(range(len(names))))
    before = written(names, prose, contents)
    expected = [content.strip("\n") if i == chosen else old for i, old in enumerate(contents)]

    after = page.replaced(before, names[chosen], content)
    assert after == written(names, prose, expected)
    assert page.replaced(after, names[chosen], content) == after


@given(parts=pages(), content=TEXT)
def test_an_unknown_name_is_refused_in_one_sentence(
    parts: tuple[list[str], list[str], list[str]], content: str
):
    with pytest.raises(InputError, match=r"^name: 'NOBODY' is no block of the page; .+[^.]$"):
        page.replaced(written(*parts), "NOBODY", content)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<!-- bench: a -->\n1\n", "'a' has no end"),
        ("<!-- bench: a -->\n<!-- bench: b -->\n<!-- end -->\n", "'<!-- bench: b -->' in line 2"),
        ("prose\n<!-- end -->\n", "'<!-- end -->' in line 2 has no partner"),
        ("<!-- bench: a -->\n<!-- end -->\n" * 2, "two blocks 'a'"),
    ],
)
def test_marks_that_do_not_match_are_refused(shown: Path, text: str, told: str):
    shown.write_text(text)
    with pytest.raises(InputError, match=re.escape(told)):
        results.rewrite("a", "2\n")
    assert shown.read_text() == text


def test_what_was_printed_may_have_no_mark(shown: Path):
    text = "<!-- bench: a -->\n1\n<!-- end -->\n"
    shown.write_text(text)
    with pytest.raises(InputError, match="'a' has a mark in it"):
        results.rewrite("a", "2\n<!-- end -->\n")
    assert shown.read_text() == text


def test_every_block_of_the_page_has_a_section_and_every_section_a_block():
    names = [section.name for section in results.SECTIONS]
    assert len(set(names)) == len(names)
    assert {*page.blocks(results.PAGE.read_text("utf-8"))} == {*names, results.MADE}


def test_the_commands_are_of_scripts_that_are_there():
    for section in results.SECTIONS:
        for command in (*section.runs, *section.tables):
            program, script, *_ = command.split()
            assert program == "fedhw" or (results.ROOT / script).is_file(), section.name


def test_no_benchmark_hides_a_module_of_python():
    """What stands beside a script is imported in place of it: torch itself wants `profile`."""
    assert not {script.stem for script in BENCHMARKS.rglob("*.py")} & sys.stdlib_module_names


@pytest.mark.parametrize("name", ["page", "tables"])
def test_doctests(name: str):
    found = doctest.testmod(import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


class TestRunning:
    """Sections of small commands, on a page of their own."""

    @pytest.fixture
    def sections(self, shown: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        made = (
            results.Section("good", ("echo new",)),
            results.Section("bad", ("echo half; echo alas >&2; false",)),
            results.Section("mute", ("true",)),
            results.Section(
                "seeds",
                runs=results.each_seed("echo SEED > {work}/SEED.txt"),
                tables=("cat {work}/0.txt {work}/1.txt {work}/2.txt",),
            ),
            results.Section("real", ("wc -c {data}",)),
            results.Section("alone", ('echo "threads $OMP_NUM_THREADS"',), alone=True),
        )
        monkeypatch.setattr(results, "SECTIONS", made)
        names = [*(section.name for section in made), results.MADE]
        shown.write_text(written(names, ["prose"] * (len(names) + 1), ["old"] * len(names)))
        return names

    def run(self, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["results.py", *arguments])
        code: int = results.main()
        return code

    def blocks(self, shown: Path) -> dict[str, str]:
        text = shown.read_text("utf-8")
        return {name: text[place] for name, place in page.blocks(text).items()}

    def test_all(
        self,
        shown: Path,
        sections: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ):
        missing = str(tmp_path / "writers.npz")
        assert self.run(monkeypatch, "--data", missing) == 1
        found, told = self.blocks(shown), capsys.readouterr().err
        stamp = (
            r"\n\*Commit \w+\+?, [\d-]{10}, .+ cores, .+ GiB, Python .+, torch .+, \d+ s\.\*\n\n"
        )
        assert re.fullmatch("\nnew\n" + stamp, found["good"])
        assert re.fullmatch("\n0\n1\n2\n" + stamp, found["seeds"])
        assert found["alone"].startswith("\nthreads 2\n")
        assert found["bad"] == found["mute"] == found["real"] == "\nold\n\n"
        assert "bad failed and keeps its old block: alas" in " ".join(told.split())
        assert "real" in told
        assert "docs/data.md" in told
        assert "| good |" in found[results.MADE]
        assert "bad" not in found[results.MADE]

    def test_one(
        self,
        shown: Path,
        sections: list[str],
        monkeypatch: pytest.MonkeyPatch,
    ):
        assert self.run(monkeypatch, "good") == 0
        changed = {name for name, block in self.blocks(shown).items() if block != "\nold\n\n"}
        assert changed == {"good"}

    def test_an_unknown_section(
        self,
        shown: Path,
        sections: list[str],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ):
        before = shown.read_text()
        assert self.run(monkeypatch, "god") == 2
        assert capsys.readouterr().err.startswith(
            "results: section: 'god' is none of good, bad, mute,"
        )
        assert shown.read_text() == before
