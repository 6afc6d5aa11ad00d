from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedhw.data.encoders import find_encoder
from fedhw.errors import InputError
from fedhw.handwriting.glyph import GLYPH
from fedhw.observation import ObservationType
from fedhw.system.plugins import ENCODERS
from tests.installed_packages import install

SOUND = ObservationType((49, 32), "float32")


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package of encoders that cannot be imported."""
    install(tmp_path, "broken", {ENCODERS: {"strokes": "nowhere:ENCODER"}})
    monkeypatch.syspath_prepend(tmp_path)
    find_encoder.cache_clear()
    yield
    find_encoder.cache_clear()


def test_strokes_become_a_glyph() -> None:
    glyph = find_encoder("strokes", GLYPH).encode([np.array([[0, 0], [10, 30]])])
    GLYPH.check(glyph)
    assert glyph.any()


@pytest.mark.usefixtures("broken")
def test_a_plug_in_that_cannot_be_imported_hinders_no_other() -> None:
    assert find_encoder("strokes", GLYPH).observation == GLYPH
    with pytest.raises(
        InputError, match=r"strokes: the plug-in nowhere:ENCODER cannot be imported"
    ):
        find_encoder("strokes", SOUND)
