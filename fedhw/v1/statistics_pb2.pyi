from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class SendReportRequest(_message.Message):
    __slots__ = ("report", "signature")
    REPORT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    report: bytes
    signature: bytes
    def __init__(self, report: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class SendReportResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Report(_message.Message):
    __slots__ = ("device", "schema", "window", "release", "epsilon", "delta", "steps")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    device: str
    schema: int
    window: int
    release: str
    epsilon: float
    delta: float
    steps: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, device: _Optional[str] = ..., schema: _Optional[int] = ..., window: _Optional[int] = ..., release: _Optional[str] = ..., epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., steps: _Optional[_Iterable[int]] = ...) -> None: ...
