from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Adoption(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ADOPTION_UNSPECIFIED: _ClassVar[Adoption]
    ADOPTION_WANTED: _ClassVar[Adoption]
    ADOPTION_LEARNING: _ClassVar[Adoption]
    ADOPTION_RUNNING: _ClassVar[Adoption]
    ADOPTION_HELD_BACK: _ClassVar[Adoption]
    ADOPTION_REFUSED: _ClassVar[Adoption]
    ADOPTION_DEFERRED: _ClassVar[Adoption]

class Refusal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFUSAL_UNSPECIFIED: _ClassVar[Refusal]
    REFUSAL_SIGNATURE: _ClassVar[Refusal]
    REFUSAL_VERSION: _ClassVar[Refusal]
    REFUSAL_ALPHABET: _ClassVar[Refusal]
    REFUSAL_ARCHITECTURE: _ClassVar[Refusal]
    REFUSAL_FILES: _ClassVar[Refusal]
    REFUSAL_STORE: _ClassVar[Refusal]

class Shadow(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SHADOW_UNSPECIFIED: _ClassVar[Shadow]
    SHADOW_WANTED: _ClassVar[Shadow]
    SHADOW_EVALUATING: _ClassVar[Shadow]
    SHADOW_TOLD: _ClassVar[Shadow]
    SHADOW_DECLINED: _ClassVar[Shadow]
    SHADOW_REFUSED: _ClassVar[Shadow]
ADOPTION_UNSPECIFIED: Adoption
ADOPTION_WANTED: Adoption
ADOPTION_LEARNING: Adoption
ADOPTION_RUNNING: Adoption
ADOPTION_HELD_BACK: Adoption
ADOPTION_REFUSED: Adoption
ADOPTION_DEFERRED: Adoption
REFUSAL_UNSPECIFIED: Refusal
REFUSAL_SIGNATURE: Refusal
REFUSAL_VERSION: Refusal
REFUSAL_ALPHABET: Refusal
REFUSAL_ARCHITECTURE: Refusal
REFUSAL_FILES: Refusal
REFUSAL_STORE: Refusal
SHADOW_UNSPECIFIED: Shadow
SHADOW_WANTED: Shadow
SHADOW_EVALUATING: Shadow
SHADOW_TOLD: Shadow
SHADOW_DECLINED: Shadow
SHADOW_REFUSED: Shadow

class Offer(_message.Message):
    __slots__ = ("manifest", "signature", "files")
    class FilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    signature: bytes
    files: _containers.ScalarMap[str, bytes]
    def __init__(self, manifest: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., files: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("adoption", "running", "refusal")
    ADOPTION_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    adoption: Adoption
    running: str
    refusal: Refusal
    def __init__(self, adoption: _Optional[_Union[Adoption, str]] = ..., running: _Optional[str] = ..., refusal: _Optional[_Union[Refusal, str]] = ...) -> None: ...

class ShadowAnswer(_message.Message):
    __slots__ = ("shadow",)
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    shadow: Shadow
    def __init__(self, shadow: _Optional[_Union[Shadow, str]] = ...) -> None: ...
