"""Random protobuf messages of any type of the contract, for Hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st


def messages(kind: Any) -> st.SearchStrategy[Any]:
    """Return random messages of a type, every field of it set or not."""
    fields = {field.name: _values(field) for field in kind.DESCRIPTOR.fields}
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: _built(kind, given))


def _built(kind: Any, given: dict[str, Any]) -> Any:
    for oneof in kind.DESCRIPTOR.oneofs:
        for spare in [field.name for field in oneof.fields if field.name in given][1:]:
            del given[spare]
    return kind(**given)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=70) | st.sampled_from(["p", "r", "main", "s1", "n1"])


def _values(field: Any) -> st.SearchStrategy[Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return st.dictionaries(TEXTS, TEXTS | st.sampled_from(["1", "{}"]), max_size=2)
    kinds: dict[int, st.SearchStrategy[Any]] = {
        field.TYPE_STRING: TEXTS,
        field.TYPE_BOOL: st.booleans(),
        field.TYPE_DOUBLE: st.floats(),
        field.TYPE_INT64: st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9),
        field.TYPE_UINT64: st.integers(0, 2**64 - 1) | st.integers(0, 9),
        field.TYPE_UINT32: st.integers(0, 2**32 - 1) | st.integers(0, 9) | st.just(30_000),
        field.TYPE_ENUM: st.integers(-1, 9),
    }
    one = messages(field.message_type._concrete_class) if field.message_type is not None else kinds[field.type]
    repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
    return st.lists(one, max_size=3) if repeated else one
