import re
from pathlib import Path

import pytest

from fedhw.errors import InputError
from fedhw.handwriting.unipen_format import Recording, Span, UnipenReader

INK = """
.PEN_DOWN
10 20
11 30
.PEN_UP
12 40
.PEN_DOWN 13 50 14 60
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "include" / "ann").mkdir(parents=True)
    return tmp_path


def read(archive: Path, text: str | bytes, name: str = "a.dat") -> Recording:
    path = archive / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("latin-1"))
    return UnipenReader(archive).read(path)


def points(recording: Recording) -> list[list[list[float]] | None]:
    return [None if c is None else c.tolist() for c in recording.components]


def test_components_are_where_the_pen_went_and_gaps_while_it_was_up(archive):
    assert points(read(archive, INK)) == [[[10, 20], [11, 30]], None, [[13, 50], [14, 60]]]


def test_a_component_without_a_point_is_not_counted(archive):
    recording = read(
        archive, ".PEN_UP\n.PEN_DOWN\n1 2\n.PEN_UP\n.PEN_DOWN\n.DT 20\n.PEN_DOWN\n3 4\n"
    )

    assert points(recording) == [[[1, 2]], [[3, 4]]]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system(archive, newline):
    assert points(read(archive, INK.replace("\n", newline))) == points(read(archive, INK))


def test_coordinates_are_found_by_name(archive):
    recording = read(archive, ".COORD T Y P X\n.PEN_DOWN\n0 2.5 90 1\n9 4 90 -3e1\n")

    assert points(recording) == [[[1, 2.5], [-30, 4]]]


def test_comments_and_unknown_statements_say_nothing(archive):
    recording = read(archive, ".COMMENT 1 2\n 3 4\n.PEN_DOWN\n5 6\n.START_BOX\n7 8\n.comment x\n")

    assert points(recording) == [[[5, 6]]]


def test_bytes_beyond_ascii_are_taken(archive):
    assert read(archive, b".COMMENT Universit\xe9\n.WRITER_ID Ren\xe9\n").writer == "Ren\xe9"


def test_who_when_and_on_which_line(archive):
    recording = read(
        archive,
        ".WRITER_ID ann x\n.WRITER_INFO Age: 3\n Hand: L\n.DATE 7 28 1993\n.H_LINE 90 25 x\n",
    )

    assert recording.writer == "ann"
    assert recording.writer_info == "Age: 3\n Hand: L"
    assert recording.date == (93, 7, 28)
    assert recording.line == 25


def test_what_is_unknown_stays_unknown(archive):
    recording = read(archive, ".WRITER_ID\n.DATE ?\n.H_LINE ?\n")

    assert (recording.writer, recording.date, recording.line) == (None, None, None)


@pytest.mark.parametrize(
    ("segment", "text", "spans"),
    [
        ('3 OK "a"', "a", [Span(3, 0, 3, None)]),
        ('3 "a"', "a", [Span(3, 0, 3, None)]),
        ('3-5 ? "Q"', "Q", [Span(3, 0, 5, None)]),
        ('3:2-4:12 OK "7"', "7", [Span(3, 2, 4, 12)]),
        ('3:7 OK "7"', "7", [Span(3, 7, 3, 7)]),
        ('3-4:12 OK "7"', "7", [Span(3, 0, 4, 12)]),
        ('0,2+5-6 OK "i"', "i", [Span(0, 0, 0, None), Span(2, 0, 2, None), Span(5, 0, 6, None)]),
        ('3\n OK\n "the"', "the", [Span(3, 0, 3, None)]),
        (r'3 OK "\""', '"', [Span(3, 0, 3, None)]),
        (r'3 OK "\\"', "\\", [Span(3, 0, 3, None)]),
    ],
)
def test_a_segment_says_what_ink_spells(archive, segment, text, spans):
    (character,) = read(archive, f"\n.SEGMENT CHARACTER {segment}\n").characters

    assert character == (text, tuple(spans), f"{archive / 'a.dat'}:2")


def test_segments_of_other_levels_are_not_characters(archive):
    assert read(archive, '.SEGMENT WORD 0-9 OK "the"\n.SEGMENT TEXT\n').characters == []


def test_includes_are_looked_for_in_the_archive_then_beside_the_file(archive):
    (archive / "include" / "ann" / "ink.dat").write_text(".WRITER_ID ann\n.PEN_DOWN\n1 2\n")
    (archive / "beside.dat").write_text(".PEN_DOWN\n3 4\n")

    recording = read(archive, '.INCLUDE "ann/INK.dat" beside.dat\n.PEN_DOWN\n5 6\n')

    assert points(recording) == [[[1, 2]], [[3, 4]], [[5, 6]]]
    assert recording.writer == "ann"
    assert recording.ink == archive / "include" / "ann" / "ink.dat"


def test_coordinates_hold_on_through_includes(archive):
    (archive / "form.doc").write_text(".COORD Y X\n")
    (archive / "ink.dat").write_text(".PEN_DOWN\n1 2\n")

    assert points(read(archive, ".INCLUDE form.doc\n.INCLUDE ink.dat\n")) == [[[2, 1]]]


def test_documentation_may_quote_ink_and_lack_what_it_includes(archive):
    (archive / "about.doc").write_text(
        ".H_LINE 25\n  .PEN_DOWN printf x y\n.SEGMENT CHARACTER as in\n"
        ".INCLUDE yours.dat about.doc\n"
    )

    recording = read(archive, ".INCLUDE about.doc other.lex\n" + INK)

    assert len(recording.components) == 3
    assert recording.line == 25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".PEN_UP\n1 2\n.PEN_DOWN\n1 2\n3 x\n", "a.dat:3: .PEN_DOWN: not all coordinates are num"),
        (".PEN_DOWN\n1 nan\n", "a.dat:1: .PEN_DOWN: not all coordinates are numbers within"),
        (".PEN_DOWN\n1 1e12\n", "a.dat:1: .PEN_DOWN: not all coordinates are numbers within 1e+09"),
        (".PEN_DOWN\n1 2\n3\n", "a.dat:1: .PEN_DOWN: 3 numbers are no whole points of X Y"),
        ("\n\n.COORD A B\n", "a.dat:3: .COORD A B: there is no X and Y"),
        ('.VERSION 1\n.SEGMENT CHARACTER 3-x OK "a"\n', "a.dat:2: .SEGMENT CHARACTER does not"),
        (".SEGMENT CHARACTER 3 OK a\n", "a.dat:1: .SEGMENT CHARACTER does not give components"),
        ('.SEGMENT CHARACTER , OK "a"\n', "a.dat:1: .SEGMENT CHARACTER does not give components"),
        ("\r\n.INCLUDE no.dat\r\n", "a.dat:2: .INCLUDE no.dat: it is not in"),
        (".INCLUDE /etc/hosts.dat\n", "a.dat:1: .INCLUDE /etc/hosts.dat: it is not in"),
        (".INCLUDE a.dat\n", "a.dat:1: .INCLUDE a.dat: it is this file itself or includes it"),
        ('.SEGMENT CHARACTER 1234567890 OK "a"\n', "a.dat:1: .SEGMENT CHARACTER does not give"),
    ],
)
def test_what_is_not_in_the_format_is_told_with_file_and_line(archive, text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read(archive, text)


def test_a_file_that_cannot_be_read_is_named(archive):
    with pytest.raises(InputError, match="include: cannot be read; unpack"):
        UnipenReader(archive).read(archive / "include")
