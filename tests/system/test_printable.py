import json

from hypothesis import given
from hypothesis import strategies as st

from fedhw.system.printable import LONGEST_SENTENCE_CHARACTERS, printable, sentence

ANY_TEXT = st.text(st.characters(exclude_categories=[]))
HIDDEN = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2066, 0x200F, 0xD800]))


@given(ANY_TEXT)
def test_nothing_that_steers_a_terminal_is_left(text):
    assert not set(printable(text)) & (set(HIDDEN) - {"\t", "\n"})
    assert not set(sentence(text)) & (set(HIDDEN) - {"\t"})


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"])))
def test_what_can_be_read_is_left_as_it_is(text):
    assert printable(text) == text


@given(ANY_TEXT)
def test_json_stays_json_of_the_same(text):
    shown = printable(json.dumps({"label": text}, ensure_ascii=False))
    assert json.loads(shown) == {"label": text}


def test_a_sentence_is_one_line_and_not_endless():
    assert sentence("a\nb") == r"a\nb"
    assert len(sentence("x" * 10**6)) == LONGEST_SENTENCE_CHARACTERS + 1
