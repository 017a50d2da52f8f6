from runlease.v1 import runs_pb2 as _runs_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Durability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DURABILITY_UNSPECIFIED: _ClassVar[Durability]
    DURABILITY_LOCAL: _ClassVar[Durability]
    DURABILITY_REPLICATED: _ClassVar[Durability]
DURABILITY_UNSPECIFIED: Durability
DURABILITY_LOCAL: Durability
DURABILITY_REPLICATED: Durability

class Points(_message.Message):
    __slots__ = ("steps", "times", "series")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    SERIES_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedScalarFieldContainer[int]
    times: _containers.RepeatedScalarFieldContainer[float]
    series: _containers.RepeatedCompositeFieldContainer[Series]
    def __init__(self, steps: _Optional[_Iterable[int]] = ..., times: _Optional[_Iterable[float]] = ..., series: _Optional[_Iterable[_Union[Series, _Mapping]]] = ...) -> None: ...

class Series(_message.Message):
    __slots__ = ("key", "rows", "values")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    key: str
    rows: _containers.RepeatedScalarFieldContainer[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, key: _Optional[str] = ..., rows: _Optional[_Iterable[int]] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("step", "uri", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    STEP_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    step: int
    uri: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, step: _Optional[int] = ..., uri: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Rewind(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    def __init__(self, step: _Optional[int] = ...) -> None: ...

class End(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: _runs_pb2.RunState
    def __init__(self, outcome: _Optional[_Union[_runs_pb2.RunState, str]] = ...) -> None: ...

class OpenWriter(_message.Message):
    __slots__ = ("run", "fence", "writer", "session", "rank_ticket", "durability", "attempt", "attempt_fence")
    RUN_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    RANK_TICKET_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FENCE_FIELD_NUMBER: _ClassVar[int]
    run: _runs_pb2.RunRef
    fence: int
    writer: str
    session: str
    rank_ticket: str
    durability: Durability
    attempt: int
    attempt_fence: int
    def __init__(self, run: _Optional[_Union[_runs_pb2.RunRef, _Mapping]] = ..., fence: _Optional[int] = ..., writer: _Optional[str] = ..., session: _Optional[str] = ..., rank_ticket: _Optional[str] = ..., durability: _Optional[_Union[Durability, str]] = ..., attempt: _Optional[int] = ..., attempt_fence: _Optional[int] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("seq", "segment", "points", "commit", "rewind", "lost", "end", "barrier")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    REWIND_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    BARRIER_FIELD_NUMBER: _ClassVar[int]
    seq: int
    segment: int
    points: Points
    commit: Commit
    rewind: Rewind
    lost: Lost
    end: End
    barrier: bool
    def __init__(self, seq: _Optional[int] = ..., segment: _Optional[int] = ..., points: _Optional[_Union[Points, _Mapping]] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ..., rewind: _Optional[_Union[Rewind, _Mapping]] = ..., lost: _Optional[_Union[Lost, _Mapping]] = ..., end: _Optional[_Union[End, _Mapping]] = ..., barrier: bool = ...) -> None: ...

class Lost(_message.Message):
    __slots__ = ("entries", "points")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    entries: int
    points: int
    def __init__(self, entries: _Optional[int] = ..., points: _Optional[int] = ...) -> None: ...

class AppendRequest(_message.Message):
    __slots__ = ("open", "entry")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    open: OpenWriter
    entry: Entry
    def __init__(self, open: _Optional[_Union[OpenWriter, _Mapping]] = ..., entry: _Optional[_Union[Entry, _Mapping]] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("seq", "segment", "written")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    seq: int
    segment: int
    written: bool
    def __init__(self, seq: _Optional[int] = ..., segment: _Optional[int] = ..., written: bool = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("seq",)
    SEQ_FIELD_NUMBER: _ClassVar[int]
    seq: int
    def __init__(self, seq: _Optional[int] = ...) -> None: ...

class Rejected(_message.Message):
    __slots__ = ("seq", "field", "description", "expected_seq")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SEQ_FIELD_NUMBER: _ClassVar[int]
    seq: int
    field: str
    description: str
    expected_seq: int
    def __init__(self, seq: _Optional[int] = ..., field: _Optional[str] = ..., description: _Optional[str] = ..., expected_seq: _Optional[int] = ...) -> None: ...

class Throttle(_message.Message):
    __slots__ = ("seq", "limited", "limit", "remaining", "retry_after_ms", "reset_ms")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    LIMITED_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    RESET_MS_FIELD_NUMBER: _ClassVar[int]
    seq: int
    limited: str
    limit: int
    remaining: int
    retry_after_ms: int
    reset_ms: int
    def __init__(self, seq: _Optional[int] = ..., limited: _Optional[str] = ..., limit: _Optional[int] = ..., remaining: _Optional[int] = ..., retry_after_ms: _Optional[int] = ..., reset_ms: _Optional[int] = ...) -> None: ...

class AppendResponse(_message.Message):
    __slots__ = ("opened", "ack", "rejected", "throttle")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    THROTTLE_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    ack: Ack
    rejected: Rejected
    throttle: Throttle
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., rejected: _Optional[_Union[Rejected, _Mapping]] = ..., throttle: _Optional[_Union[Throttle, _Mapping]] = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("run", "keys", "writers", "min_step", "max_step", "max_points", "superseded", "key_patterns", "after", "page_points", "page_token", "packed", "stream_pages")
    RUN_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    WRITERS_FIELD_NUMBER: _ClassVar[int]
    MIN_STEP_FIELD_NUMBER: _ClassVar[int]
    MAX_STEP_FIELD_NUMBER: _ClassVar[int]
    MAX_POINTS_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_FIELD_NUMBER: _ClassVar[int]
    KEY_PATTERNS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_POINTS_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    STREAM_PAGES_FIELD_NUMBER: _ClassVar[int]
    run: _runs_pb2.RunRef
    keys: _containers.RepeatedScalarFieldContainer[str]
    writers: _containers.RepeatedScalarFieldContainer[str]
    min_step: int
    max_step: int
    max_points: int
    superseded: bool
    key_patterns: _containers.RepeatedScalarFieldContainer[str]
    after: str
    page_points: int
    page_token: str
    packed: bool
    stream_pages: bool
    def __init__(self, run: _Optional[_Union[_runs_pb2.RunRef, _Mapping]] = ..., keys: _Optional[_Iterable[str]] = ..., writers: _Optional[_Iterable[str]] = ..., min_step: _Optional[int] = ..., max_step: _Optional[int] = ..., max_points: _Optional[int] = ..., superseded: bool = ..., key_patterns: _Optional[_Iterable[str]] = ..., after: _Optional[str] = ..., page_points: _Optional[int] = ..., page_token: _Optional[str] = ..., packed: bool = ..., stream_pages: bool = ...) -> None: ...

class HistoryResponse(_message.Message):
    __slots__ = ("key", "writer", "steps", "values", "times", "attempts", "superseded", "packed_steps", "packed_values", "packed_times", "packed_attempts", "nan_in_bucket", "cursor", "next_page_token")
    KEY_FIELD_NUMBER: _ClassVar[int]
    WRITER_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_FIELD_NUMBER: _ClassVar[int]
    PACKED_STEPS_FIELD_NUMBER: _ClassVar[int]
    PACKED_VALUES_FIELD_NUMBER: _ClassVar[int]
    PACKED_TIMES_FIELD_NUMBER: _ClassVar[int]
    PACKED_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    NAN_IN_BUCKET_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    key: str
    writer: str
    steps: _containers.RepeatedScalarFieldContainer[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    times: _containers.RepeatedScalarFieldContainer[float]
    attempts: _containers.RepeatedScalarFieldContainer[int]
    superseded: _containers.RepeatedScalarFieldContainer[bool]
    packed_steps: bytes
    packed_values: bytes
    packed_times: bytes
    packed_attempts: bytes
    nan_in_bucket: _containers.RepeatedScalarFieldContainer[bool]
    cursor: str
    next_page_token: str
    def __init__(self, key: _Optional[str] = ..., writer: _Optional[str] = ..., steps: _Optional[_Iterable[int]] = ..., values: _Optional[_Iterable[float]] = ..., times: _Optional[_Iterable[float]] = ..., attempts: _Optional[_Iterable[int]] = ..., superseded: _Optional[_Iterable[bool]] = ..., packed_steps: _Optional[bytes] = ..., packed_values: _Optional[bytes] = ..., packed_times: _Optional[bytes] = ..., packed_attempts: _Optional[bytes] = ..., nan_in_bucket: _Optional[_Iterable[bool]] = ..., cursor: _Optional[str] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("run_points", "run_bytes", "project_points", "project_bytes", "burst_s", "acquires")
    RUN_POINTS_FIELD_NUMBER: _ClassVar[int]
    RUN_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROJECT_POINTS_FIELD_NUMBER: _ClassVar[int]
    PROJECT_BYTES_FIELD_NUMBER: _ClassVar[int]
    BURST_S_FIELD_NUMBER: _ClassVar[int]
    ACQUIRES_FIELD_NUMBER: _ClassVar[int]
    run_points: int
    run_bytes: int
    project_points: int
    project_bytes: int
    burst_s: float
    acquires: int
    def __init__(self, run_points: _Optional[int] = ..., run_bytes: _Optional[int] = ..., project_points: _Optional[int] = ..., project_bytes: _Optional[int] = ..., burst_s: _Optional[float] = ..., acquires: _Optional[int] = ...) -> None: ...

class GetLimitsRequest(_message.Message):
    __slots__ = ("project", "id")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    project: str
    id: str
    def __init__(self, project: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class GetLimitsResponse(_message.Message):
    __slots__ = ("limits",)
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    limits: Limits
    def __init__(self, limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class SetLimitsRequest(_message.Message):
    __slots__ = ("project", "id", "limits")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    project: str
    id: str
    limits: Limits
    def __init__(self, project: _Optional[str] = ..., id: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class SetLimitsResponse(_message.Message):
    __slots__ = ("limits",)
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    limits: Limits
    def __init__(self, limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...
