from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class EnrolRequest(_message.Message):
    __slots__ = ("device", "token", "report_key", "node_key", "proof")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    REPORT_KEY_FIELD_NUMBER: _ClassVar[int]
    NODE_KEY_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    device: str
    token: str
    report_key: bytes
    node_key: str
    proof: bytes
    def __init__(self, device: _Optional[str] = ..., token: _Optional[str] = ..., report_key: _Optional[bytes] = ..., node_key: _Optional[str] = ..., proof: _Optional[bytes] = ...) -> None: ...

class EnrolResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
