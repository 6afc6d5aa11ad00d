import re
from pathlib import Path

import numpy as np
import pytest

from fedhw.data.npz import load_npz
from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.handwriting.stroke_file import StrokeFile
from fedhw.handwriting.unipen import load_unipen, read_unipen
from tests.parts import need_data
from tests.places import ROOT, SHARED

STEM = [(100, 90), (100, 60), (100, 10)]
FOOT = [(100, 10), (120, 11), (150, 10)]
BOW = [(80, 60), (40, 70), (20, 40), (40, 10), (80, 20)]


def pen_down(*points: tuple[int, int]) -> str:
    return ".PEN_DOWN\n" + "".join(f"{x} {y}\n" for x, y in points)


class Archive:
    """A folder as UNIPEN's archive is: ink under include, what it spells under data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("include/ann/ann.doc", ".COORD X Y\n.H_LINE 12\n  .PEN_DOWN quoted\n")

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def ink(
        self, name: str, *strokes: list[tuple[int, int]], head: str = ".WRITER_ID ann\n"
    ) -> None:
        self.write(f"include/{name}", head + "".join(pen_down(*stroke) for stroke in strokes))

    def spell(self, name: str, ink: str, *segments: str) -> None:
        lines = "".join(f".SEGMENT CHARACTER {segment}\n" for segment in segments)
        self.write(f"data/{name}", f".VERSION 1.0\n.INCLUDE ann/ann.doc\n.INCLUDE {ink}\n{lines}")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path)


def text(writers: WriterSet) -> str:
    return "".join(writers.classes[label] for label in writers.labels)


def test_digits_upper_and_lower_case_of_one_writer_stand_in_the_order_of_writing(archive):
    archive.ink("ann/ink.dat", BOW, STEM, FOOT, [(0, 0), (9, 9), (9, 50)])
    archive.spell("1a/ann/x.dat", "ann/ink.dat", '3 OK "7"')
    archive.spell("1b/ann/x.dat", "ann/ink.dat", '1-2 OK "L"')
    archive.spell("1c/ann/x.dat", "ann/ink.dat", '0 OK "c"')

    writers = load_unipen(archive.folder)

    assert text(writers) == "cL7"
    assert writers.names == ("ann/ann",)
    assert writers.order.tolist() == [0, 1, 2]


def test_writers_stand_by_name_and_what_they_wrote_by_date_then_file(archive):
    for name, writer, date in [
        ("page2", "bo", ".DATE 3 1 93\n"),
        ("page10", "bo", ".DATE 3 1 93\n"),
        ("early", "bo", ".DATE 12 30 92\n"),
        ("none", "Ann", ""),
    ]:
        shape = BOW if writer == "Ann" else STEM
        archive.ink(f"ann/{name}.dat", shape, head=f".WRITER_ID {writer}\n{date}")
    archive.spell("1c/ann/a.dat", "ann/page10.dat", '0 OK "l"')
    archive.spell("1c/ann/b.dat", "ann/early.dat", '0:1-0:2 OK "i"')
    archive.spell("1c/ann/c.dat", "ann/none.dat", '0 OK "c"')
    archive.spell("1c/ann/d.dat", "ann/page2.dat", '0:0-0:1 OK "j"')

    writers = load_unipen(archive.folder)

    assert writers.names == ("ann/ann", "ann/bo")
    assert text(writers) == "cijl"
    assert writers.order.tolist() == [0, 0, 1, 2]


def test_the_same_ink_is_taken_once(archive):
    archive.ink("ann/ink.dat", STEM, BOW)
    archive.ink("ann/copy.dat", BOW)
    archive.spell("1a/ann/x.dat", "ann/ink.dat", '0 OK "1"')
    archive.spell("1c/ann/x.dat", "ann/ink.dat", '0 OK "l"', '1 OK "c"')
    archive.spell("1c/ann/y.dat", "ann/copy.dat", '0 OK "c"')

    assert text(load_unipen(archive.folder)) == "c1"


def test_a_part_of_a_stroke_may_be_a_character(archive):
    archive.ink("ann/ink.dat", [*BOW, *STEM])
    archive.spell("1c/ann/x.dat", "ann/ink.dat", '0:0-0:4 OK "c"', '0:5-0:7 OK "l"')
    alone = Archive(archive.folder / "alone")
    alone.ink("ann/ink.dat", BOW, STEM)
    alone.spell("1c/ann/x.dat", "ann/ink.dat", '0 OK "c"', '1 OK "l"')

    assert (
        load_unipen(archive.folder).observations.tolist()
        == load_unipen(archive.folder / "alone").observations.tolist()
    )


def test_a_glyph_stands_upright(archive):
    archive.ink("ann/ink.dat", STEM, FOOT)
    archive.spell("1b/ann/x.dat", "ann/ink.dat", '0-1 OK "L"')

    ink = load_unipen(archive.folder).observations[0] > 100

    assert ink[20:].sum() > ink[:8].sum()
    assert ink[:, :14].sum() > ink[:, 14:].sum()


def test_other_signs_and_levels_are_left_out(archive):
    archive.ink("ann/ink.dat", STEM, FOOT)
    archive.spell("1c/ann/x.dat", "ann/ink.dat", '0 OK "|"', '0-1 OK "ll"', '0 OK ""', '0 OK "l"')
    archive.write("data/2/ann/x.dat", "include nothing\n.SEGMENT CHARACTER broken\n")

    assert text(load_unipen(archive.folder)) == "l"


def test_a_dot_is_left_out(archive):
    archive.ink("ann/ink.dat", [(5, 5), (5, 5)], STEM)
    archive.spell("1c/ann/x.dat", "ann/ink.dat", '0 OK "i"', '1 OK "l"')

    assert text(load_unipen(archive.folder)) == "l"


@pytest.mark.parametrize(("contributor", "read"), [("ann", "l"), ("ibm", "tl")])
def test_withheld_ink_is_left_out_unless_it_is_a_stray_sample(archive, contributor, read):
    archive.ink("ann/ink.dat", [(0, 0)], STEM, FOOT)
    archive.spell(f"1c/{contributor}/x.dat", "ann/ink.dat", '0 OK "i"', '0-1 OK "t"', '2 OK "l"')

    assert text(load_unipen(archive.folder)) == read


def test_jumps_to_the_origin_and_repeated_points_leave_no_ink(archive):
    far = [(x + 200, y + 200) for x, y in STEM]
    archive.ink("ann/a.dat", far)
    archive.ink("ann/b.dat", [far[0], far[0], far[1], (0, 0), far[2]], head=".WRITER_ID bo\n")
    archive.spell("1c/ann/a.dat", "ann/a.dat", '0 OK "l"')
    archive.spell("1c/ann/b.dat", "ann/b.dat", '0 OK "l"')

    clean, dirty = load_unipen(archive.folder).observations

    assert clean.tolist() == dirty.tolist()


@pytest.mark.parametrize(
    ("contributor", "head", "name"),
    [
        ("ann", "", "ann/page"),
        ("ann", ".WRITER_ID JB\n", "ann/jb"),
        ("apb", ".WRITER_ID text_Bob_StrongSplit\n", "apple/bobstrong"),
        ("cea", ".WRITER_ID AAAA9018\n", "cedar/aaaa9018"),
        ("ibm", ".WRITER_ID r03-07\n", "ibm/w07"),
        ("ibm", ".WRITER_ID other\n", "ibm/other"),
        ("imp", ".WRITER_ID Xiao\n.WRITER_INFO Age: 30\n  Other Names: Song\n", "imp/xiao_s"),
        ("imp", ".WRITER_ID Xiao\n", "imp/xiao"),
        ("gmd", ".WRITER_ID alek\n", "gmd/alek"),
    ],
)
def test_a_writer_is_named_as_the_contributor_names_people(archive, contributor, head, name):
    archive.ink("ann/ink.dat", STEM, head=head)
    archive.spell(f"1c/{contributor}/page.dat", "ann/ink.dat", '0 OK "l"')

    assert load_unipen(archive.folder).names == (name,)


def test_a_recording_of_several_people_is_left_out(archive):
    archive.ink("ann/ink.dat", STEM)
    archive.ink("ann/several.dat", BOW, head=".WRITER_ID kast\n")
    archive.spell("1c/gmd/x.dat", "ann/ink.dat", '0 OK "l"')
    archive.spell("1c/gmd/y.dat", "ann/several.dat", '0 OK "c"')

    assert load_unipen(archive.folder).names == ("gmd/ann",)


def test_the_pen_tells_size_strokes_and_the_line(archive):
    archive.ink("ann/ink.dat", STEM, FOOT, BOW)
    archive.spell("1b/ann/x.dat", "ann/ink.dat", '0-1 OK "L"')
    archive.spell("1c/ann/x.dat", "ann/ink.dat", '2 OK "c"')
    archive.write("data/1c/bo/x.dat", '.INCLUDE ann/ink.dat\n.SEGMENT CHARACTER 0 OK "l"\n')

    characters = read_unipen(archive.folder)

    assert text(characters.writers) == "Lcl"
    assert characters.numbers.size.tolist() == [80, 60, 80]
    assert characters.numbers.strokes.tolist() == [2, 1, 1]
    assert characters.numbers.bottom.tolist() == [10, 10, 10]
    assert characters.numbers.line[:2].tolist() == [12, 12]
    assert np.isnan(characters.numbers.line[2])


def test_strokes_are_kept_in_a_box_with_y_down(archive):
    archive.ink("ann/ink.dat", STEM, FOOT)
    archive.spell("1b/ann/x.dat", "ann/ink.dat", '0-1 OK "L"')

    stem, foot = read_unipen(archive.folder).strokes[0]

    assert stem.tolist() == [[0, 0], [0, 1000]]
    assert foot[0].tolist() == [0, 1000]
    assert foot[-1].tolist() == [625, 1000]


def test_characters_beyond_the_ink_of_their_file_are_left_out_and_told(archive, caplog):
    archive.ink("ann/ink.dat", STEM)
    archive.spell("1c/ann/x.dat", "ann/ink.dat", '0 OK "l"', '0-1 OK "L"', '7 OK "c"')

    assert text(load_unipen(archive.folder)) == "l"
    (told,) = caplog.messages
    assert told.startswith("2 characters are beyond the ink of their files and left out; the first")
    assert told.endswith("x.dat:5")


def test_a_file_that_is_not_in_the_format_is_told_with_its_line(archive):
    archive.ink("ann/ink.dat", STEM, head=".WRITER_ID ann\n.PEN_DOWN\n3 four\n")
    archive.spell("1c/ann/x.dat", "ann/ink.dat", '0 OK "l"')

    with pytest.raises(InputError, match=r"ann/ink\.dat:2: \.PEN_DOWN: not all coordinates are"):
        load_unipen(archive.folder)


@pytest.mark.parametrize("missing", ["data", "include"])
def test_a_folder_without_its_two_parts_is_told(archive, missing):
    archive.write("data/1c/ann/x.dat", "")
    (archive.folder / missing).rename(archive.folder / "elsewhere")

    with pytest.raises(InputError, match=f"holds no folder {missing}; give the folder of train_r"):
        load_unipen(archive.folder)


def test_an_archive_without_characters_is_told(archive):
    archive.spell("1c/ann/x.dat", "ann/ann.doc")

    with pytest.raises(InputError, match="there is no digit or letter under data/1a, data/1b and"):
        load_unipen(archive.folder)


def test_what_the_page_on_data_tells_to_run_makes_the_file_of_the_results(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "data.md").read_text("utf-8")
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "unipen" in c)
    archive = Archive(tmp_path / "train_r01_v07")
    archive.ink("ann/ink.dat", STEM, BOW)
    archive.spell("1c/ann/x.dat", "ann/ink.dat", '0 OK "l"', '1 OK "c"')
    monkeypatch.chdir(tmp_path)

    exec(code, {})

    writers, read = load_npz(tmp_path / "writers.npz"), load_unipen(archive.folder)
    assert text(writers) == "lc"
    assert writers.observations.tolist() == read.observations.tolist()
    assert writers.names == read.names


def test_the_public_files_give_the_shared_rows_of_their_writers():
    need_data(SHARED / "unipen_sample")
    whole = load_npz(SHARED / "unipen62.npz")
    pen = np.load(SHARED / "unipen62_pen.npz")
    strokes = StrokeFile.read(SHARED / "unipen62_strokes.npz")

    characters = read_unipen(SHARED / "unipen_sample")

    writers = characters.writers
    assert writers.names == (
        *("art/writer01", "art/writer03", "art/writer08", "gmd/alek", "gmd/monu", "lou/jl_vo"),
        *("pri/0", "pri/150", "pri/159"),
    )
    assert len(writers) == 4_718
    rows = np.concatenate([whole.rows_of(whole.names.index(name)) for name in writers.names])
    assert [writers.names[w] for w in writers.writer] == [
        whole.names[w] for w in whole.writer[rows]
    ]
    for field in ("observations", "labels", "order"):
        assert np.array_equal(getattr(writers, field), getattr(whole, field)[rows]), field
    assert np.array_equal(characters.numbers.size, pen["size"][rows])
    assert np.array_equal(characters.numbers.strokes, pen["strokes"][rows])
    for mine, row in enumerate(rows):
        for one, other in zip(characters.strokes[mine], strokes[int(row)], strict=True):
            assert np.array_equal(one, other)
