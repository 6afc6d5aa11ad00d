import re
from dataclasses import FrozenInstanceError
from itertools import pairwise

import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from torch import nn

from fedhw.errors import InputError
from fedhw.experts.layers import (
    Conv1d,
    Conv2d,
    Flatten,
    Layer,
    Linear,
    MaxPool1d,
    MaxPool2d,
    Relu,
    layer_shapes,
)

LAYERS = st.one_of(
    st.builds(Conv2d, st.integers(1, 3), st.integers(1, 6), st.integers(0, 3)),
    st.builds(Conv1d, st.integers(1, 3), st.integers(1, 6), st.integers(0, 3)),
    st.builds(Relu),
    st.builds(MaxPool1d),
    st.builds(MaxPool2d),
    st.builds(Flatten),
    st.builds(Linear, st.integers(1, 9)),
)
SHAPES = st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple)


def torchs_shape(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    """What PyTorch makes of a batch of one; RuntimeError where it refuses the shape."""
    match layer:
        case Conv2d(out, kernel, padding):
            module: nn.Module = nn.Conv2d(shape[0], out, kernel, padding=padding)
        case Conv1d(out, kernel, padding):
            module = nn.Conv1d(shape[0], out, kernel, padding=padding)
        case Relu():
            module = nn.ReLU()
        case MaxPool1d():
            module = nn.MaxPool1d(2)
        case MaxPool2d():
            module = nn.MaxPool2d(2)
        case Flatten():
            module = nn.Flatten()
        case Linear(out):
            module = nn.Linear(shape[-1], out)
    return tuple(module(torch.zeros(1, *shape)).shape[1:])


@given(st.lists(LAYERS, max_size=6), SHAPES)
def test_shapes_are_torchs(layers, observation):
    try:
        shapes = layer_shapes([*layers, Flatten()], observation)
    except InputError:
        reject()
    along = 1 if any(isinstance(layer, Conv1d | MaxPool1d) for layer in layers) else 2
    assert len(shapes[0]) != along
    assert len(shapes[-1]) == 1
    for layer, (before, after) in zip([*layers, Flatten()], pairwise(shapes), strict=True):
        assert torchs_shape(layer, before) == after


@pytest.mark.parametrize(
    ("layers", "observation", "told"),
    [
        ([Conv2d(4, 5)], (4, 9), "layer 0, Conv2d(out=4, kernel=5, padding=0), does not fit"),
        ([Conv2d(4, 5)], (9,), "does not fit [9], which is what an observation [9] has become"),
        ([MaxPool2d()], (1, 9), "MaxPool2d(), does not fit [1, 1, 9]"),
        ([Flatten(), MaxPool2d()], (9, 9), "layer 1, MaxPool2d(), does not fit [81]"),
        ([Linear(3)], (9, 9), "layer 0, Linear(out=3), does not fit [1, 9, 9]"),
        ([Flatten(), Linear(0)], (9, 9), "layer 1, Linear(out=0), does not fit [81]"),
        ([Conv2d(4, 3, -1), Flatten()], (9, 9), "padding=-1), does not fit"),
        ([Relu()], (9, 7), "they make [1, 9, 7] of an observation [9, 7]"),
        ([], (49, 32), "and not features [D]; end with Flatten()"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(layers, observation, told):
    with pytest.raises(InputError, match=re.escape(told)):
        layer_shapes(layers, observation)


def test_an_image_of_colours_keeps_its_channels():
    assert layer_shapes([Conv2d(4, 3), Flatten()], (3, 8, 6)) == [(3, 8, 6), (4, 6, 4), (96,)]


def test_layers_are_data():
    assert Conv2d(6, 5, padding=2) == Conv2d(6, 5, 2)
    assert len({Linear(3), Linear(3), Linear(4)}) == 2
    with pytest.raises(FrozenInstanceError):
        Linear(3).out = 4
