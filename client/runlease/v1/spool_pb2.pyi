from runlease.v1 import leases_pb2 as _leases_pb2
from runlease.v1 import metrics_pb2 as _metrics_pb2
from runlease.v1 import runs_pb2 as _runs_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SpoolRecord(_message.Message):
    __slots__ = ("header", "entry", "item", "base", "acknowledged", "outcome", "update", "known", "granted")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    header: SpoolHeader
    entry: SpooledEntry
    item: SpooledItem
    base: SpoolBase
    acknowledged: SpoolAcknowledged
    outcome: _runs_pb2.RunState
    update: _runs_pb2.UpdateRunRequest
    known: SpoolKnown
    granted: _runs_pb2.RunRef
    def __init__(self, header: _Optional[_Union[SpoolHeader, _Mapping]] = ..., entry: _Optional[_Union[SpooledEntry, _Mapping]] = ..., item: _Optional[_Union[SpooledItem, _Mapping]] = ..., base: _Optional[_Union[SpoolBase, _Mapping]] = ..., acknowledged: _Optional[_Union[SpoolAcknowledged, _Mapping]] = ..., outcome: _Optional[_Union[_runs_pb2.RunState, str]] = ..., update: _Optional[_Union[_runs_pb2.UpdateRunRequest, _Mapping]] = ..., known: _Optional[_Union[SpoolKnown, _Mapping]] = ..., granted: _Optional[_Union[_runs_pb2.RunRef, _Mapping]] = ...) -> None: ...

class SpoolHeader(_message.Message):
    __slots__ = ("version", "run", "canonical_id", "writer", "fence", "attempt", "session", "starting_step", "created", "holder", "acquire")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    CANONICAL_ID_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    STARTING_STEP_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    ACQUIRE_FIELD_NUMBER: _ClassVar[int]
    version: int
    run: _runs_pb2.RunRef
    canonical_id: str
    writer: str
    fence: int
    attempt: int
    session: str
    starting_step: int
    created: float
    holder: _runs_pb2.Holder
    acquire: _leases_pb2.AcquireRequest
    def __init__(self, version: _Optional[int] = ..., run: _Optional[_Union[_runs_pb2.RunRef, _Mapping]] = ..., canonical_id: _Optional[str] = ..., writer: _Optional[str] = ..., fence: _Optional[int] = ..., attempt: _Optional[int] = ..., session: _Optional[str] = ..., starting_step: _Optional[int] = ..., created: _Optional[float] = ..., holder: _Optional[_Union[_runs_pb2.Holder, _Mapping]] = ..., acquire: _Optional[_Union[_leases_pb2.AcquireRequest, _Mapping]] = ...) -> None: ...

class SpooledEntry(_message.Message):
    __slots__ = ("place", "entry", "kind", "points", "step", "items_through")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[SpooledEntry.Kind]
        KIND_POINTS: _ClassVar[SpooledEntry.Kind]
        KIND_COMMIT: _ClassVar[SpooledEntry.Kind]
        KIND_REWIND: _ClassVar[SpooledEntry.Kind]
        KIND_LOST: _ClassVar[SpooledEntry.Kind]
    KIND_UNSPECIFIED: SpooledEntry.Kind
    KIND_POINTS: SpooledEntry.Kind
    KIND_COMMIT: SpooledEntry.Kind
    KIND_REWIND: SpooledEntry.Kind
    KIND_LOST: SpooledEntry.Kind
    PLACE_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ITEMS_THROUGH_FIELD_NUMBER: _ClassVar[int]
    place: int
    entry: bytes
    kind: SpooledEntry.Kind
    points: int
    step: int
    items_through: int
    def __init__(self, place: _Optional[int] = ..., entry: _Optional[bytes] = ..., kind: _Optional[_Union[SpooledEntry.Kind, str]] = ..., points: _Optional[int] = ..., step: _Optional[int] = ..., items_through: _Optional[int] = ...) -> None: ...

class SpooledItem(_message.Message):
    __slots__ = ("index", "row", "commit", "rewind")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    REWIND_FIELD_NUMBER: _ClassVar[int]
    index: int
    row: SpooledRow
    commit: _metrics_pb2.Commit
    rewind: _metrics_pb2.Rewind
    def __init__(self, index: _Optional[int] = ..., row: _Optional[_Union[SpooledRow, _Mapping]] = ..., commit: _Optional[_Union[_metrics_pb2.Commit, _Mapping]] = ..., rewind: _Optional[_Union[_metrics_pb2.Rewind, _Mapping]] = ...) -> None: ...

class SpooledRow(_message.Message):
    __slots__ = ("step", "time", "keys", "values")
    STEP_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    step: int
    time: float
    keys: _containers.RepeatedScalarFieldContainer[str]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, step: _Optional[int] = ..., time: _Optional[float] = ..., keys: _Optional[_Iterable[str]] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class SpoolBase(_message.Message):
    __slots__ = ("seq",)
    SEQ_FIELD_NUMBER: _ClassVar[int]
    seq: int
    def __init__(self, seq: _Optional[int] = ...) -> None: ...

class SpoolAcknowledged(_message.Message):
    __slots__ = ("place", "taken")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    place: int
    taken: bool
    def __init__(self, place: _Optional[int] = ..., taken: bool = ...) -> None: ...

class SpoolKnown(_message.Message):
    __slots__ = ("run", "name", "segments", "next_step", "commits", "config", "summary", "outcome", "created", "auto_keys")
    class VisibleCommit(_message.Message):
        __slots__ = ("commit", "created", "segment")
        COMMIT_FIELD_NUMBER: _ClassVar[int]
        CREATED_FIELD_NUMBER: _ClassVar[int]
        SEGMENT_FIELD_NUMBER: _ClassVar[int]
        commit: _metrics_pb2.Commit
        created: float
        segment: int
        def __init__(self, commit: _Optional[_Union[_metrics_pb2.Commit, _Mapping]] = ..., created: _Optional[float] = ..., segment: _Optional[int] = ...) -> None: ...
    class ConfigEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class SummaryEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RUN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_STEP_FIELD_NUMBER: _ClassVar[int]
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    AUTO_KEYS_FIELD_NUMBER: _ClassVar[int]
    run: _runs_pb2.RunRef
    name: str
    segments: int
    next_step: int
    commits: _containers.RepeatedCompositeFieldContainer[SpoolKnown.VisibleCommit]
    config: _containers.ScalarMap[str, str]
    summary: _containers.ScalarMap[str, str]
    outcome: _runs_pb2.RunState
    created: float
    auto_keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, run: _Optional[_Union[_runs_pb2.RunRef, _Mapping]] = ..., name: _Optional[str] = ..., segments: _Optional[int] = ..., next_step: _Optional[int] = ..., commits: _Optional[_Iterable[_Union[SpoolKnown.VisibleCommit, _Mapping]]] = ..., config: _Optional[_Mapping[str, str]] = ..., summary: _Optional[_Mapping[str, str]] = ..., outcome: _Optional[_Union[_runs_pb2.RunState, str]] = ..., created: _Optional[float] = ..., auto_keys: _Optional[_Iterable[str]] = ...) -> None: ...
