from runlease.v1 import runs_pb2 as _runs_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ResumeMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESUME_MODE_UNSPECIFIED: _ClassVar[ResumeMode]
    RESUME_MODE_NEVER: _ClassVar[ResumeMode]
    RESUME_MODE_ALLOW: _ClassVar[ResumeMode]
    RESUME_MODE_MUST: _ClassVar[ResumeMode]
    RESUME_MODE_AUTO: _ClassVar[ResumeMode]
RESUME_MODE_UNSPECIFIED: ResumeMode
RESUME_MODE_NEVER: ResumeMode
RESUME_MODE_ALLOW: ResumeMode
RESUME_MODE_MUST: ResumeMode
RESUME_MODE_AUTO: ResumeMode

class ProofOfDeath(_message.Message):
    __slots__ = ("fence", "boot_id", "pid_namespace", "pid", "process_started")
    FENCE_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    PID_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    PROCESS_STARTED_FIELD_NUMBER: _ClassVar[int]
    fence: int
    boot_id: str
    pid_namespace: str
    pid: int
    process_started: int
    def __init__(self, fence: _Optional[int] = ..., boot_id: _Optional[str] = ..., pid_namespace: _Optional[str] = ..., pid: _Optional[int] = ..., process_started: _Optional[int] = ...) -> None: ...

class HistoryPoint(_message.Message):
    __slots__ = ("id", "step")
    ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    id: str
    step: int
    def __init__(self, id: _Optional[str] = ..., step: _Optional[int] = ...) -> None: ...

class AcquireRequest(_message.Message):
    __slots__ = ("run", "mode", "nonce", "ttl_ms", "holder", "resume_step", "resume_from", "fork_from", "name", "notes", "tags", "config", "wait_ms", "auto_keys", "proof_of_death", "member", "auto_search", "last_call", "holds", "sync")
    class ConfigEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RUN_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    RESUME_STEP_FIELD_NUMBER: _ClassVar[int]
    RESUME_FROM_FIELD_NUMBER: _ClassVar[int]
    FORK_FROM_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    AUTO_KEYS_FIELD_NUMBER: _ClassVar[int]
    PROOF_OF_DEATH_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    AUTO_SEARCH_FIELD_NUMBER: _ClassVar[int]
    LAST_CALL_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    run: _runs_pb2.RunRef
    mode: ResumeMode
    nonce: str
    ttl_ms: int
    holder: _runs_pb2.Holder
    resume_step: int
    resume_from: HistoryPoint
    fork_from: HistoryPoint
    name: str
    notes: str
    tags: _runs_pb2.Tags
    config: _containers.ScalarMap[str, str]
    wait_ms: int
    auto_keys: _containers.RepeatedScalarFieldContainer[str]
    proof_of_death: ProofOfDeath
    member: bool
    auto_search: bool
    last_call: bool
    holds: bool
    sync: bool
    def __init__(self, run: _Optional[_Union[_runs_pb2.RunRef, _Mapping]] = ..., mode: _Optional[_Union[ResumeMode, str]] = ..., nonce: _Optional[str] = ..., ttl_ms: _Optional[int] = ..., holder: _Optional[_Union[_runs_pb2.Holder, _Mapping]] = ..., resume_step: _Optional[int] = ..., resume_from: _Optional[_Union[HistoryPoint, _Mapping]] = ..., fork_from: _Optional[_Union[HistoryPoint, _Mapping]] = ..., name: _Optional[str] = ..., notes: _Optional[str] = ..., tags: _Optional[_Union[_runs_pb2.Tags, _Mapping]] = ..., config: _Optional[_Mapping[str, str]] = ..., wait_ms: _Optional[int] = ..., auto_keys: _Optional[_Iterable[str]] = ..., proof_of_death: _Optional[_Union[ProofOfDeath, _Mapping]] = ..., member: bool = ..., auto_search: bool = ..., last_call: bool = ..., holds: bool = ..., sync: bool = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("fence", "attempt", "ttl_ms", "remaining_ms", "resumed", "previous_state", "next_step", "starting_step", "checkpoint", "run", "rank_ticket", "config_changes", "cursor", "incarnation")
    FENCE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_STATE_FIELD_NUMBER: _ClassVar[int]
    NEXT_STEP_FIELD_NUMBER: _ClassVar[int]
    STARTING_STEP_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    RANK_TICKET_FIELD_NUMBER: _ClassVar[int]
    CONFIG_CHANGES_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    fence: int
    attempt: int
    ttl_ms: int
    remaining_ms: int
    resumed: bool
    previous_state: _runs_pb2.RunState
    next_step: int
    starting_step: int
    checkpoint: _runs_pb2.Checkpoint
    run: _runs_pb2.Run
    rank_ticket: str
    config_changes: _containers.RepeatedCompositeFieldContainer[_runs_pb2.ConfigChange]
    cursor: str
    incarnation: str
    def __init__(self, fence: _Optional[int] = ..., attempt: _Optional[int] = ..., ttl_ms: _Optional[int] = ..., remaining_ms: _Optional[int] = ..., resumed: bool = ..., previous_state: _Optional[_Union[_runs_pb2.RunState, str]] = ..., next_step: _Optional[int] = ..., starting_step: _Optional[int] = ..., checkpoint: _Optional[_Union[_runs_pb2.Checkpoint, _Mapping]] = ..., run: _Optional[_Union[_runs_pb2.Run, _Mapping]] = ..., rank_ticket: _Optional[str] = ..., config_changes: _Optional[_Iterable[_Union[_runs_pb2.ConfigChange, _Mapping]]] = ..., cursor: _Optional[str] = ..., incarnation: _Optional[str] = ...) -> None: ...

class AcquireResponse(_message.Message):
    __slots__ = ("grant",)
    GRANT_FIELD_NUMBER: _ClassVar[int]
    grant: Grant
    def __init__(self, grant: _Optional[_Union[Grant, _Mapping]] = ...) -> None: ...

class Granted(_message.Message):
    __slots__ = ("wish", "attempt", "next_step", "starting_step")
    WISH_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NEXT_STEP_FIELD_NUMBER: _ClassVar[int]
    STARTING_STEP_FIELD_NUMBER: _ClassVar[int]
    wish: AcquireRequest
    attempt: int
    next_step: int
    starting_step: int
    def __init__(self, wish: _Optional[_Union[AcquireRequest, _Mapping]] = ..., attempt: _Optional[int] = ..., next_step: _Optional[int] = ..., starting_step: _Optional[int] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("run", "fence", "held_by_own_clock", "incarnation", "granted")
    RUN_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    HELD_BY_OWN_CLOCK_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    run: _runs_pb2.RunRef
    fence: int
    held_by_own_clock: bool
    incarnation: str
    granted: Granted
    def __init__(self, run: _Optional[_Union[_runs_pb2.RunRef, _Mapping]] = ..., fence: _Optional[int] = ..., held_by_own_clock: bool = ..., incarnation: _Optional[str] = ..., granted: _Optional[_Union[Granted, _Mapping]] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("remaining_ms", "reinstated", "stop_requested", "incarnation", "fence")
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    REINSTATED_FIELD_NUMBER: _ClassVar[int]
    STOP_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    remaining_ms: int
    reinstated: bool
    stop_requested: bool
    incarnation: str
    fence: int
    def __init__(self, remaining_ms: _Optional[int] = ..., reinstated: bool = ..., stop_requested: bool = ..., incarnation: _Optional[str] = ..., fence: _Optional[int] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("run", "fence", "outcome", "undelivered")
    RUN_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    UNDELIVERED_FIELD_NUMBER: _ClassVar[int]
    run: _runs_pb2.RunRef
    fence: int
    outcome: _runs_pb2.RunState
    undelivered: bool
    def __init__(self, run: _Optional[_Union[_runs_pb2.RunRef, _Mapping]] = ..., fence: _Optional[int] = ..., outcome: _Optional[_Union[_runs_pb2.RunState, str]] = ..., undelivered: bool = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: _runs_pb2.RunState
    def __init__(self, outcome: _Optional[_Union[_runs_pb2.RunState, str]] = ...) -> None: ...

class BreakRequest(_message.Message):
    __slots__ = ("run", "fence", "force", "reason")
    RUN_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    run: _runs_pb2.RunRef
    fence: int
    force: bool
    reason: str
    def __init__(self, run: _Optional[_Union[_runs_pb2.RunRef, _Mapping]] = ..., fence: _Optional[int] = ..., force: bool = ..., reason: _Optional[str] = ...) -> None: ...

class BreakResponse(_message.Message):
    __slots__ = ("fence",)
    FENCE_FIELD_NUMBER: _ClassVar[int]
    fence: int
    def __init__(self, fence: _Optional[int] = ...) -> None: ...
