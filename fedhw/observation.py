"""The input and the output of a release: the type of an observation, and the labels."""

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhw.errors import InputError

DTYPES = ("uint8", "int8", "uint16", "int16", "float16", "float32")

MAX_OBSERVATION_BYTES = 64 * 1024
"""Bytes of one observation; a glyph has 784."""

MAX_AXES = 4

MAX_LABELS = 65_536
MAX_LABEL_CHARACTERS = 64

_SHOWN_LABELS = 100
"""Most labels that an error message lists."""

Observations = NDArray[Any]
"""One observation [*shape] or many [..., *shape]; the type belongs to the release."""


@dataclass(frozen=True)
class ObservationType:
    """The shape and dtype of one observation.

    The bytes of an observation are its values row by row, little-endian. Raises InputError for a
    shape that is not 1 to 4 integers above 0, for a dtype not in `DTYPES`, and for more than
    64 KiB.

    >>> windows = ObservationType((2, 3), "float32")
    >>> windows.from_bytes(windows.to_bytes(np.ones((2, 3), np.float32))).sum()
    np.float32(6.0)
    >>> windows.check(np.ones((3, 2), np.float32))
    Traceback (most recent call last):
    fedhw.errors.InputError: observation: shape [3, 2] is not [2, 3]; give float32 [2, 3]
    """

    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(
                f"observation: dtype {str(self.dtype)[:20]} is not supported; use one of "
                f"{', '.join(DTYPES)}"
            )
        if not 1 <= len(self.shape) <= MAX_AXES or not all(
            type(length) is int and length > 0 for length in self.shape
        ):
            raise InputError(
                f"observation: shape {str(list(self.shape))[:40]} is not 1 to {MAX_AXES} lengths "
                "above 0; give the shape of one observation"
            )
        if self.nbytes > MAX_OBSERVATION_BYTES:
            raise InputError(
                f"observation: {self} has {self.nbytes} bytes, over {MAX_OBSERVATION_BYTES}; use a "
                "smaller shape or dtype"
            )

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"

    @property
    def nbytes(self) -> int:
        """Bytes of one observation."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def largest(self) -> float:
        """The largest value of an integer dtype, 1 of a float dtype."""
        dtype = np.dtype(self.dtype)
        return 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)

    def check(self, observation: Observations) -> None:
        """Raise InputError unless this is one observation of finite numbers."""
        self._check(observation, axes_before=0)

    def check_batch(self, observations: Observations) -> None:
        """Raise InputError unless these are observations [N, *shape] of finite numbers."""
        self._check(observations, axes_before=1)

    def to_bytes(self, observation: Observations) -> bytes:
        """Return the bytes of an observation; raises InputError where it is not of this type."""
        self.check(observation)
        return observation.astype(self._stored, copy=False).tobytes()

    def from_bytes(self, content: bytes) -> Observations:
        """Return the observation for bytes from `to_bytes`; it is read-only.

        Raises InputError for too few or too many bytes and for numbers that are not finite.
        """
        if len(content) != self.nbytes:
            raise InputError(
                f"observation: {len(content)} bytes are not the {self.nbytes} of {self}; give one "
                "whole observation"
            )
        observation = np.frombuffer(content, self._stored).reshape(self.shape)
        observation = observation.astype(self.dtype, copy=False)
        self.check(observation)
        return observation

    def empty(self, n: int) -> Observations:
        """Return zeros as n observations, [n, *shape]."""
        return np.zeros((n, *self.shape), self.dtype)

    def stack(self, observations: Sequence[Observations]) -> Observations:
        """Return any number of observations as [N, *shape]."""
        return np.stack(observations) if observations else self.empty(0)

    def flat(self, observations: Observations) -> Observations:
        """Return observations [..., *shape] as [N, *shape]."""
        return observations.reshape(-1, *self.shape)

    @property
    def _stored(self) -> np.dtype[Any]:
        return np.dtype(self.dtype).newbyteorder("<")

    def _check(self, values: Observations, axes_before: int) -> None:
        if not isinstance(values, np.ndarray):
            raise InputError(f"observation: a {type(values).__name__} is no array; give {self}")
        shape = values.shape[axes_before:]
        if values.dtype != self.dtype:
            raise InputError(f"observation: dtype {values.dtype} is not {self.dtype}; give {self}")
        if shape != self.shape:
            raise InputError(
                f"observation: shape {list(shape)} is not {list(self.shape)}; give {self}"
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InputError("observation: it holds NaN or infinity; give finite numbers")


@dataclass(frozen=True)
class Labels:
    """The names of the classes of a release: class i has the i-th text.

    Raises InputError for none or more than 65,536 texts, for a text that is not 1 to 64 characters
    or has a control character or a lone surrogate, and for two equal texts.

    >>> digits = Labels(("one", "two", "seven"))
    >>> digits.index("seven"), digits[2], "six" in digits
    (2, 'seven', False)
    >>> Labels.characters("ab") == Labels(("a", "b"))
    True
    """

    texts: tuple[str, ...]
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.texts) <= MAX_LABELS:
            raise InputError(f"labels: {len(self.texts)} is not 1 to {MAX_LABELS}; give that many")
        index = index_of_texts("labels", self.texts, mend="give each class another label")
        object.__setattr__(self, "_index", index)

    @classmethod
    def characters(cls, alphabet: str) -> "Labels":
        """Return a label for each character of an alphabet."""
        return cls(tuple(alphabet))

    def __str__(self) -> str:
        shown = self.texts[:_SHOWN_LABELS]
        text = ("" if self.are_characters else ", ").join(shown)
        return text if len(shown) == len(self) else f"{text} and {len(self) - len(shown)} more"

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, label: int) -> str:
        return self.texts[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __contains__(self, text: object) -> bool:
        return text in self._index

    @property
    def are_characters(self) -> bool:
        """Whether each label is one character."""
        return all(len(text) == 1 for text in self.texts)

    def index(self, text: str) -> int:
        """Return the class with this name; raises InputError where there is none."""
        check_is_text("label", text)
        try:
            return self._index[text]
        except KeyError:
            raise InputError(f"label: {text[:20]!r} is not known; use one of {self}") from None


def index_of_texts(
    field: str, texts: Sequence[Any], mend: str, longest: int = MAX_LABEL_CHARACTERS
) -> dict[str, int]:
    """Return the place of each text; raises InputError unless they differ and can be shown."""
    index: dict[str, int] = {}
    for number, text in enumerate(texts):
        _check_text(f"{field}[{number}]", text, longest)
        if index.setdefault(text, number) != number:
            raise InputError(f"{field}[{number}]: {text!r} is also {field}[{index[text]}]; {mend}")
    return index


def _check_text(field: str, text: Any, longest: int) -> None:
    """Raise InputError unless this is a text of 1 to `longest` characters that can be shown."""
    check_is_text(field, text)
    if not 1 <= len(text) <= longest:
        raise InputError(
            f"{field}: {text[:20]!r} is not a text of 1 to {longest} characters; give a shorter one"
        )
    kinds = {unicodedata.category(character) for character in text}
    for kind, name in (("Cc", "a control character"), ("Cs", "a lone surrogate")):
        if kind in kinds:
            raise InputError(
                f"{field}: {ascii(text)[:40]} has {name}; give a text that can be shown"
            )


def check_is_text(field: str, value: Any) -> None:
    """Raise InputError unless this is a str."""
    if not isinstance(value, str):
        kind = type(value).__name__
        raise InputError(
            f"{field}: {repr(value)[:20]} is not a text but of type {kind}; give a str"
        )
