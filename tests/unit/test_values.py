"""What may be logged, and what becomes of the rest."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runlease.exceptions import InvalidArgument
from runlease.values import MAX_STEP, MetricReader, check_step


class Tensor:
    """What a tensor shows of itself: a shape and `item()`; counts how often it is read."""

    def __init__(self, value: Any, shape: tuple[int, ...] = ()) -> None:
        self.value, self.shape, self.reads = value, shape, 0

    def item(self) -> Any:
        self.reads += 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


class Name(str, Enum):  # noqa: UP042 - a StrEnum is the tame case
    LOSS = "loss"


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0.25, 0.25),
        (3, 3.0),
        (True, 1.0),
        (2**53 + 1, 2.0**53),
        (math.inf, math.inf),
        (-math.inf, -math.inf),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.float16(0.5), 0.5),
        (np.int64(-7), -7.0),
        (np.uint8(7), 7.0),
        (np.bool_(True), 1.0),
        (np.array(0.5), 0.5),
        (np.array(3), 3.0),
        (np.array(False), 0.0),
        (Decimal("0.5"), 0.5),
        (Fraction(1, 4), 0.25),
        (Tensor(0.5), 0.5),
        (Tensor(3), 3.0),
        (Tensor(True), 1.0),
        (Tensor(np.float32(0.5)), 0.5),
    ],
)
def test_numbers_of_every_kind_become_floats(value: object, number: float) -> None:
    reader = MetricReader(strict=True)
    for _ in range(2):  # the second time the keys are known
        keys, values = reader.read({"x": value})
        assert (keys, values) == (("x",), (number,))
        assert type(values[0]) is float
    assert reader.bad == 0


@pytest.mark.parametrize("nan", [math.nan, np.float32("nan"), Tensor(math.nan), Decimal("nan")])
def test_nan_stays(nan: object) -> None:
    ((value,),) = (MetricReader(strict=True).read({"x": nan})[1],)
    assert math.isnan(value)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "0.5",
        b"1",
        [1.0],
        (1.0,),
        object(),
        1j,
        np.complex64(1),
        10**400,
        np.array([1.0]),
        np.zeros((2, 2)),
        np.array("a"),
        np.array(None),
        np.datetime64("2026-01-01"),
        Decimal("sNaN"),
        Tensor(1.0, (1,)),
        Tensor("a"),
        Tensor(1j),
        Tensor(RuntimeError("a tensor on the meta device has no value")),
    ],
)
def test_what_is_no_number_is_left_out_and_counted(bad: object, caplog: pytest.LogCaptureFixture) -> None:
    reader = MetricReader()
    with caplog.at_level(logging.WARNING, "runlease"):
        for _ in range(3):
            assert reader.read({"a": 1.0, "bad": bad, "b": 2}) == (("a", "b"), (1.0, 2.0))
    assert reader.bad == 3
    (record,) = caplog.records  # said once
    assert "'bad'" in record.getMessage()
    with pytest.raises(InvalidArgument, match="'bad'") as raised:
        MetricReader(strict=True).read({"a": 1.0, "bad": bad})
    assert raised.value.field == "metrics['bad']"


def test_a_key_that_was_good_may_turn_bad_and_good_again() -> None:
    reader = MetricReader()
    assert reader.read({"a": 1.0, "b": 1.0})[0] == ("a", "b")
    assert reader.read({"a": 1.0, "b": None}) == (("a",), (1.0,))
    assert reader.read({"a": 1.0, "b": 3.0}) == (("a", "b"), (1.0, 3.0))
    assert reader.bad == 1


@pytest.mark.parametrize(
    "key", ["", "k" * 257, 3, None, ("a",), "\ud800"], ids=["empty", "long", "int", "None", "tuple", "surrogate"]
)
def test_keys_are_strings_of_1_to_256_characters(key: Any) -> None:
    reader = MetricReader()
    for _ in range(2):
        assert reader.read({"a": 1.0, key: 2.0}) == (("a",), (1.0,))
    assert reader.bad == 2
    with pytest.raises(InvalidArgument):
        MetricReader(strict=True).read({key: 2.0})


def test_longest_and_unusual_keys_are_kept() -> None:
    keys = ("k" * 256, "ü" * 256, "a/b", " ", "val loss", "日本")
    assert MetricReader(strict=True).read(dict.fromkeys(keys, 1.0))[0] == keys


def test_keys_of_string_subclasses_are_kept_as_their_text() -> None:
    for key in (Name.LOSS, np.str_("loss")):
        (plain,), _ = MetricReader(strict=True).read({key: 1.0})
        assert plain == "loss"
        assert type(plain) is str


def test_nested_mappings_flatten_with_slashes() -> None:
    metrics = {"train": {"loss": 0.5, "by": OrderedDict(head=1, tail=np.float32(2))}, "lr": 0.1, "none": {}}
    keys, values = MetricReader(strict=True).read(metrics)
    assert keys == ("train/loss", "train/by/head", "train/by/tail", "lr")
    assert values == (0.5, 1.0, 2.0, 0.1)


def test_a_flattened_key_has_at_most_256_characters() -> None:
    nested = {"a" * 128: {"b" * 127: 1.0, "c" * 128: 2.0}}
    reader = MetricReader()
    assert reader.read(nested)[1] == (1.0,)
    assert reader.bad == 1


def test_a_mapping_that_contains_itself_ends() -> None:
    loop: dict[str, Any] = {"x": 1.0}
    loop["again"] = loop
    loop["twice"] = {"deep": loop}
    reader = MetricReader()
    keys, _ = reader.read(loop)
    assert "x" in keys
    assert reader.bad > 0


def test_nested_keys_that_are_no_strings_are_bad() -> None:
    reader = MetricReader()
    assert reader.read({"a": {3: 1.0, "x": 2.0}, 4: {"x": 1.0}}) == (("a/x",), (2.0,))
    assert reader.bad == 2


@pytest.mark.parametrize("metrics", [None, 0.5, [("a", 1.0)], "loss", {"loss"}])
def test_metrics_are_a_mapping(metrics: Any) -> None:
    with pytest.raises(InvalidArgument, match="mapping") as raised:
        MetricReader().read(metrics)
    assert raised.value.field == "metrics"


def test_other_mappings_and_an_empty_one() -> None:
    reader = MetricReader()
    assert reader.read(MappingProxyType({"a": 1})) == (("a",), (1.0,))
    assert reader.read({}) == ((), ())


def test_values_are_read_at_the_call() -> None:
    array = np.array(0.5)
    _, values = MetricReader().read({"x": array})
    array[...] = 9.0
    assert values == (0.5,)


def test_a_tensor_is_read_once() -> None:
    reader, tensor = MetricReader(), Tensor(0.5)
    reader.read({"x": tensor})
    reader.read({"x": tensor})
    assert tensor.reads == 2  # each read may wait for a device


def test_rows_of_the_same_keys_share_them() -> None:
    reader = MetricReader()
    assert reader.read({"a": 1.0, "b": 2.0})[0] is reader.read({"a": 3.0, "b": 4.0})[0]


def test_endless_new_keys_do_not_fill_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    reader = MetricReader()
    for i in range(3000):
        reader.read({f"k{i}": 1.0})
        reader.read({f"k{i}": None})
    assert len(reader._known) <= 1024
    assert len(reader._warned) <= 1024
    assert reader.bad == 3000


leaf = st.one_of(st.floats(), st.integers(), st.booleans(), st.none(), st.text(), st.binary())
anything = st.recursive(leaf, lambda inner: st.dictionaries(st.text(max_size=300), inner) | st.lists(inner))


@given(st.dictionaries(st.one_of(st.text(max_size=300), st.integers()), anything))
def test_whatever_is_logged_what_comes_out_can_be_sent(metrics: dict[Any, Any]) -> None:
    keys, values = MetricReader().read(metrics)
    assert len(keys) == len(values) == len(set(keys))
    assert all(type(key) is str and 1 <= len(key.encode().decode()) <= 256 for key in keys)
    assert all(type(value) is float for value in values)


# Steps.


@pytest.mark.parametrize("step", [0, 1, MAX_STEP, np.int64(7), np.uint8(7), np.array(7)])
def test_steps_are_whole_numbers(step: Any) -> None:
    checked = check_step(step)
    assert checked == step
    assert type(checked) is int


@pytest.mark.parametrize(
    "step", [-1, MAX_STEP + 1, 10**400, True, 1.0, np.float64(1), "1", None, np.array([1, 2]), np.int64(-1)]
)
def test_other_steps_are_refused_naming_the_field(step: Any) -> None:
    with pytest.raises(InvalidArgument, match="step") as raised:
        check_step(step)
    assert raised.value.field == "step"
