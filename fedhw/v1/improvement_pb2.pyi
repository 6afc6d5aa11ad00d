from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Decline(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECLINE_UNSPECIFIED: _ClassVar[Decline]
    DECLINE_UNAVAILABLE: _ClassVar[Decline]
    DECLINE_TASK: _ClassVar[Decline]
    DECLINE_BUDGET: _ClassVar[Decline]
    DECLINE_SUM: _ClassVar[Decline]
    DECLINE_STEP: _ClassVar[Decline]
DECLINE_UNSPECIFIED: Decline
DECLINE_UNAVAILABLE: Decline
DECLINE_TASK: Decline
DECLINE_BUDGET: Decline
DECLINE_SUM: Decline
DECLINE_STEP: Decline

class SumRequest(_message.Message):
    __slots__ = ("sum", "advertise", "share", "mask", "reveal")
    SUM_FIELD_NUMBER: _ClassVar[int]
    ADVERTISE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    REVEAL_FIELD_NUMBER: _ClassVar[int]
    sum: bytes
    advertise: Task
    share: Neighbours
    mask: Envelopes
    reveal: Survivors
    def __init__(self, sum: _Optional[bytes] = ..., advertise: _Optional[_Union[Task, _Mapping]] = ..., share: _Optional[_Union[Neighbours, _Mapping]] = ..., mask: _Optional[_Union[Envelopes, _Mapping]] = ..., reveal: _Optional[_Union[Survivors, _Mapping]] = ...) -> None: ...

class SumAnswer(_message.Message):
    __slots__ = ("keys", "envelopes", "vector", "shares", "training", "declined")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    ENVELOPES_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    DECLINED_FIELD_NUMBER: _ClassVar[int]
    keys: Keys
    envelopes: Envelopes
    vector: bytes
    shares: Shares
    training: bool
    declined: Decline
    def __init__(self, keys: _Optional[_Union[Keys, _Mapping]] = ..., envelopes: _Optional[_Union[Envelopes, _Mapping]] = ..., vector: _Optional[bytes] = ..., shares: _Optional[_Union[Shares, _Mapping]] = ..., training: _Optional[bool] = ..., declined: _Optional[_Union[Decline, str]] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("parameters", "rate", "radius", "noise", "devices", "survivors")
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    RADIUS_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    parameters: bytes
    rate: float
    radius: float
    noise: float
    devices: int
    survivors: int
    def __init__(self, parameters: _Optional[bytes] = ..., rate: _Optional[float] = ..., radius: _Optional[float] = ..., noise: _Optional[float] = ..., devices: _Optional[int] = ..., survivors: _Optional[int] = ...) -> None: ...

class Keys(_message.Message):
    __slots__ = ("device", "report_key", "certificate", "mask_key", "share_key", "signature")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    REPORT_KEY_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    MASK_KEY_FIELD_NUMBER: _ClassVar[int]
    SHARE_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    device: str
    report_key: bytes
    certificate: bytes
    mask_key: bytes
    share_key: bytes
    signature: bytes
    def __init__(self, device: _Optional[str] = ..., report_key: _Optional[bytes] = ..., certificate: _Optional[bytes] = ..., mask_key: _Optional[bytes] = ..., share_key: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Neighbours(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[Keys]
    def __init__(self, keys: _Optional[_Iterable[_Union[Keys, _Mapping]]] = ...) -> None: ...

class Envelopes(_message.Message):
    __slots__ = ("by_device",)
    class ByDeviceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    BY_DEVICE_FIELD_NUMBER: _ClassVar[int]
    by_device: _containers.ScalarMap[str, bytes]
    def __init__(self, by_device: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class Survivors(_message.Message):
    __slots__ = ("devices",)
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, devices: _Optional[_Iterable[str]] = ...) -> None: ...

class Shares(_message.Message):
    __slots__ = ("by_device",)
    class ByDeviceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Share
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Share, _Mapping]] = ...) -> None: ...
    BY_DEVICE_FIELD_NUMBER: _ClassVar[int]
    by_device: _containers.MessageMap[str, Share]
    def __init__(self, by_device: _Optional[_Mapping[str, Share]] = ...) -> None: ...

class Share(_message.Message):
    __slots__ = ("point", "value")
    POINT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    point: int
    value: bytes
    def __init__(self, point: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...
