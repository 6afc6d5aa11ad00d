import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Decider(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECIDER_UNSPECIFIED: _ClassVar[Decider]
    DECIDER_GLOBAL_EXPERT: _ClassVar[Decider]
    DECIDER_LOCAL_EXPERT: _ClassVar[Decider]
DECIDER_UNSPECIFIED: Decider
DECIDER_GLOBAL_EXPERT: Decider
DECIDER_LOCAL_EXPERT: Decider

class Glyph(_message.Message):
    __slots__ = ("image", "strokes")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    STROKES_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    strokes: Strokes
    def __init__(self, image: _Optional[bytes] = ..., strokes: _Optional[_Union[Strokes, _Mapping]] = ...) -> None: ...

class Strokes(_message.Message):
    __slots__ = ("strokes",)
    STROKES_FIELD_NUMBER: _ClassVar[int]
    strokes: _containers.RepeatedCompositeFieldContainer[Stroke]
    def __init__(self, strokes: _Optional[_Iterable[_Union[Stroke, _Mapping]]] = ...) -> None: ...

class Stroke(_message.Message):
    __slots__ = ("x", "y")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    x: _containers.RepeatedScalarFieldContainer[float]
    y: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, x: _Optional[_Iterable[float]] = ..., y: _Optional[_Iterable[float]] = ...) -> None: ...

class RecognizeRequest(_message.Message):
    __slots__ = ("glyph", "top_k")
    GLYPH_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    glyph: Glyph
    top_k: int
    def __init__(self, glyph: _Optional[_Union[Glyph, _Mapping]] = ..., top_k: _Optional[int] = ...) -> None: ...

class RecognizeResponse(_message.Message):
    __slots__ = ("label", "confidence", "candidates", "decided_by", "gate", "global_expert", "local_expert", "release", "personal_version")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    DECIDED_BY_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    GLOBAL_EXPERT_FIELD_NUMBER: _ClassVar[int]
    LOCAL_EXPERT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    PERSONAL_VERSION_FIELD_NUMBER: _ClassVar[int]
    label: str
    confidence: float
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    decided_by: Decider
    gate: float
    global_expert: Candidate
    local_expert: Candidate
    release: str
    personal_version: int
    def __init__(self, label: _Optional[str] = ..., confidence: _Optional[float] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., decided_by: _Optional[_Union[Decider, str]] = ..., gate: _Optional[float] = ..., global_expert: _Optional[_Union[Candidate, _Mapping]] = ..., local_expert: _Optional[_Union[Candidate, _Mapping]] = ..., release: _Optional[str] = ..., personal_version: _Optional[int] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("label", "probability")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    label: str
    probability: float
    def __init__(self, label: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class LearnRequest(_message.Message):
    __slots__ = ("glyph", "label", "id")
    GLYPH_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    glyph: Glyph
    label: str
    id: str
    def __init__(self, glyph: _Optional[_Union[Glyph, _Mapping]] = ..., label: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class LearnResponse(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ids: _Optional[_Iterable[str]] = ...) -> None: ...

class UndoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UndoResponse(_message.Message):
    __slots__ = ("id", "label")
    ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    id: str
    label: str
    def __init__(self, id: _Optional[str] = ..., label: _Optional[str] = ...) -> None: ...

class ForgetRequest(_message.Message):
    __slots__ = ("id", "label", "period", "everything")
    ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    EVERYTHING_FIELD_NUMBER: _ClassVar[int]
    id: str
    label: str
    period: Period
    everything: Everything
    def __init__(self, id: _Optional[str] = ..., label: _Optional[str] = ..., period: _Optional[_Union[Period, _Mapping]] = ..., everything: _Optional[_Union[Everything, _Mapping]] = ...) -> None: ...

class Period(_message.Message):
    __slots__ = ("start", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: _timestamp_pb2.Timestamp
    end: _timestamp_pb2.Timestamp
    def __init__(self, start: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Everything(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ForgetResponse(_message.Message):
    __slots__ = ("forgotten",)
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    forgotten: int
    def __init__(self, forgotten: _Optional[int] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("release", "architecture", "observation", "labels")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    release: str
    architecture: str
    observation: ObservationType
    labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, release: _Optional[str] = ..., architecture: _Optional[str] = ..., observation: _Optional[_Union[ObservationType, _Mapping]] = ..., labels: _Optional[_Iterable[str]] = ...) -> None: ...

class ObservationType(_message.Message):
    __slots__ = ("shape", "dtype")
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    def __init__(self, shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: Status
    def __init__(self, status: _Optional[_Union[Status, _Mapping]] = ...) -> None: ...

class WatchStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchStatusResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: Status
    def __init__(self, status: _Optional[_Union[Status, _Mapping]] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("release", "architecture", "alphabet", "personal_version", "kept", "corrections", "recognitions", "global_expert", "mixture", "learning", "store_bytes", "notices")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    ALPHABET_FIELD_NUMBER: _ClassVar[int]
    PERSONAL_VERSION_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    CORRECTIONS_FIELD_NUMBER: _ClassVar[int]
    RECOGNITIONS_FIELD_NUMBER: _ClassVar[int]
    GLOBAL_EXPERT_FIELD_NUMBER: _ClassVar[int]
    MIXTURE_FIELD_NUMBER: _ClassVar[int]
    LEARNING_FIELD_NUMBER: _ClassVar[int]
    STORE_BYTES_FIELD_NUMBER: _ClassVar[int]
    NOTICES_FIELD_NUMBER: _ClassVar[int]
    release: str
    architecture: str
    alphabet: str
    personal_version: int
    kept: int
    corrections: int
    recognitions: int
    global_expert: Accuracy
    mixture: Accuracy
    learning: bool
    store_bytes: int
    notices: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, release: _Optional[str] = ..., architecture: _Optional[str] = ..., alphabet: _Optional[str] = ..., personal_version: _Optional[int] = ..., kept: _Optional[int] = ..., corrections: _Optional[int] = ..., recognitions: _Optional[int] = ..., global_expert: _Optional[_Union[Accuracy, _Mapping]] = ..., mixture: _Optional[_Union[Accuracy, _Mapping]] = ..., learning: _Optional[bool] = ..., store_bytes: _Optional[int] = ..., notices: _Optional[_Iterable[str]] = ...) -> None: ...

class Accuracy(_message.Message):
    __slots__ = ("total", "recent")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    RECENT_FIELD_NUMBER: _ClassVar[int]
    total: float
    recent: float
    def __init__(self, total: _Optional[float] = ..., recent: _Optional[float] = ...) -> None: ...

class ExportProfileRequest(_message.Message):
    __slots__ = ("passphrase",)
    PASSPHRASE_FIELD_NUMBER: _ClassVar[int]
    passphrase: str
    def __init__(self, passphrase: _Optional[str] = ...) -> None: ...

class ExportProfileResponse(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    def __init__(self, chunk: _Optional[bytes] = ...) -> None: ...

class ImportProfileRequest(_message.Message):
    __slots__ = ("passphrase", "chunk")
    PASSPHRASE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    passphrase: str
    chunk: bytes
    def __init__(self, passphrase: _Optional[str] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class ImportProfileResponse(_message.Message):
    __slots__ = ("added",)
    ADDED_FIELD_NUMBER: _ClassVar[int]
    added: int
    def __init__(self, added: _Optional[int] = ...) -> None: ...
