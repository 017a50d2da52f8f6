"""etcd's v3lock from the same client: its few messages, made at run time, so that no generated code is needed.

Field numbers are those of etcd 3.4's `v3lock.proto` and `rpc.proto`.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

LOCK = "/v3lockpb.Lock/Lock"
UNLOCK = "/v3lockpb.Lock/Unlock"
GRANT = "/etcdserverpb.Lease/LeaseGrant"

_Field = descriptor_pb2.FieldDescriptorProto
#: message -> field -> (number, type); fields that the bench does not read are left out and skipped by the parser.
_MESSAGES: dict[str, dict[str, tuple[int, Any]]] = {
    "LockRequest": {"name": (1, _Field.TYPE_BYTES), "lease": (2, _Field.TYPE_INT64)},
    "LockResponse": {"key": (2, _Field.TYPE_BYTES)},
    "UnlockRequest": {"key": (1, _Field.TYPE_BYTES)},
    "UnlockResponse": {},
    "LeaseGrantRequest": {"TTL": (1, _Field.TYPE_INT64), "ID": (2, _Field.TYPE_INT64)},
    "LeaseGrantResponse": {"ID": (2, _Field.TYPE_INT64), "TTL": (3, _Field.TYPE_INT64)},
}


def _make() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="bench_etcd.proto", package="benchetcd", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            message.field.add(name=field, number=number, type=kind, label=_Field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"benchetcd.{name}")) for name in _MESSAGES
    }


_CLASSES = _make()
LockRequest: Any = _CLASSES["LockRequest"]
LockResponse: Any = _CLASSES["LockResponse"]
UnlockRequest: Any = _CLASSES["UnlockRequest"]
UnlockResponse: Any = _CLASSES["UnlockResponse"]
LeaseGrantRequest: Any = _CLASSES["LeaseGrantRequest"]
LeaseGrantResponse: Any = _CLASSES["LeaseGrantResponse"]
