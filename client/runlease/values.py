"""What a user logs, read at the call: keys and floats, checked steps.

Only numbers are logged: int, float, bool, NumPy scalars, 0-d arrays and tensors of any library, and other
real numbers such as Decimal and Fraction. NaN and infinities stay. No library is imported for it.
"""

from __future__ import annotations

import logging
import numbers
import operator
from collections.abc import Iterator, Mapping

from runlease.exceptions import InvalidArgument

#: Steps stay exact in every double on their way, with room for the step after.
MAX_STEP = 2**53 - 2
#: Characters of a key after flattening.
MAX_KEY = 256

#: Sets of keys, and bad keys, that are remembered; a caller with endless new ones must not fill the memory.
_REMEMBERED = 1024


Keys = tuple[str, ...]
Values = tuple[float, ...]

log = logging.getLogger("runlease")


def check_step(step: object) -> int:
    """Return the step as an int: 0..2^53-2, of any type that is an index (such as ``np.int64``).

    Raises:
        InvalidArgument: a bool, a float, another type, or out of range; ``field`` is ``step``.
    """
    if type(step) is not int:
        if isinstance(step, bool):
            raise InvalidArgument("a step is a whole number, not a bool: give step=0", field="step")
        try:
            step = operator.index(step)  # type: ignore[arg-type]  # what is no index is the case to catch
        except TypeError:
            raise InvalidArgument(
                f"a step is a whole number, not {type(step).__name__}: give step=int(...)", field="step"
            ) from None
    if not 0 <= step <= MAX_STEP:
        shown = step if abs(step) < 10**20 else "a huge number"
        raise InvalidArgument(f"a step is 0..2^53-2, not {shown}", field="step")
    return step


class MetricReader:
    """Turns metrics into keys and floats; counts what is no number and warns of it once per key."""

    __slots__ = ("_bad", "_known", "_strict", "_warned")

    def __init__(self, *, strict: bool = False) -> None:
        """Take whether a bad value raises instead of being left out."""
        self._strict = strict
        self._bad = 0
        #: Sets of keys that are valid as they are, each once: rows share them.
        self._known: dict[Keys, Keys] = {}
        self._warned: set[str] = set()

    @property
    def bad(self) -> int:
        """How many values were left out since they are no numbers, or their keys no keys."""
        return self._bad

    def read(self, metrics: Mapping[str, object]) -> tuple[Keys, Values]:
        """Return the keys and the values as they are now; nested mappings are flattened with ``/``.

        Raises:
            InvalidArgument: no mapping; with ``strict`` also a bad value, whose key is in ``field``.
        """
        # The common row, a flat dict of floats under keys seen before: one pass over types, none over keys.
        if type(metrics) is dict:
            keys = self._known.get((*metrics,))
            if keys is not None:
                values = (*metrics.values(),)
                for value in values:
                    if type(value) is not float:
                        break
                else:
                    return keys, values
                read = [_number(value) for value in values]
                if None not in read:
                    return keys, tuple(read)  # type: ignore[arg-type]  # `in` narrows no list
        elif not isinstance(metrics, Mapping):
            raise InvalidArgument(
                f'metrics are a mapping of names to numbers, not {type(metrics).__name__}: log({{"loss": 0.3}})',
                field="metrics",
            )
        return self._read_each(metrics)

    def _read_each(self, metrics: Mapping[str, object]) -> tuple[Keys, Values]:
        row: dict[str, float] = {}
        plain = True  # every key is usable as it is
        for key, value in metrics.items():
            number = _number(value)
            if number is None and isinstance(value, Mapping):
                plain = False
                self._read_nested(key, value, row)
            elif number is None:
                plain = False
                self._refuse(key, f"{_kind(value)} is no number")
            elif problem := _key_problem(key):
                plain = False
                self._refuse(key, problem)
            else:
                plain = plain and type(key) is str
                row[str.__str__(key)] = number
        keys = tuple(row)
        if plain:
            keys = self._remember(keys)
        return keys, tuple(row.values())

    def _read_nested(self, prefix: object, metrics: Mapping[object, object], row: dict[str, float]) -> None:
        for key, value in _flat(prefix, metrics):
            if problem := _key_problem(key):
                self._refuse(key, problem)
            elif (number := _number(value)) is None:
                self._refuse(key, f"{_kind(value)} is no number")
            else:
                row[str.__str__(key)] = number

    def _remember(self, keys: Keys) -> Keys:
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        return self._known.setdefault(keys, keys)

    def _refuse(self, key: object, problem: str) -> None:
        self._bad += 1
        name = _shown(key)
        message = f"metric {name} is not logged: {problem}; log numbers under names of 1..{MAX_KEY} characters"
        if self._strict:
            raise InvalidArgument(message, field=f"metrics[{name}]")
        if name not in self._warned and len(self._warned) < _REMEMBERED:
            self._warned.add(name)
            log.warning("%s (said once per name)", message)


def _flat(
    prefix: object, metrics: Mapping[object, object], above: tuple[int, ...] = ()
) -> Iterator[tuple[object, object]]:
    """Yield the leaves below a key; a mapping that cannot be gone into (a cycle, say) is itself one."""
    if not isinstance(prefix, str) or len(prefix) >= MAX_KEY or id(metrics) in above:
        yield prefix, metrics
        return
    for key, value in metrics.items():
        path = f"{str.__str__(prefix)}/{str.__str__(key)}" if isinstance(key, str) else key
        if isinstance(value, Mapping):
            yield from _flat(path, value, (*above, id(metrics)))
        else:
            yield path, value


def _key_problem(key: object) -> str:
    """Say what is wrong with a key, or nothing."""
    if not isinstance(key, str):
        return f"its name is of type {type(key).__name__}, not a string"
    if not key:
        return "its name is empty"
    if len(key) > MAX_KEY:
        return f"its name has {len(key)} characters"
    if not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError:
            return "its name is no valid Unicode"
    return ""


def _number(value: object) -> float | None:
    """Return a value as a float, or None if it is no number or out of the range of floats."""
    kind = type(value)
    if kind is float:
        return value  # type: ignore[return-value]  # mypy does not narrow by `type(...) is`
    try:
        if kind is int or isinstance(value, (float, int)):
            return float(value)  # type: ignore[arg-type]  # mypy knows `value` as object
        if isinstance(value, numbers.Number):  # Decimal is a Number, yet no Real
            imaginary = isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real)
            return None if imaginary else float(value)  # type: ignore[arg-type]  # the same
        item = getattr(value, "item", None)
        if not callable(item) or tuple(getattr(value, "shape", ())) != ():
            return None
        scalar = item()
    except Exception:
        # Foreign code (a tensor on the meta device, a signalling NaN, an integer beyond floats) may raise
        # anything, and a value that cannot be read must not end a training.
        return None
    # One level only: what yields another container by item() is no scalar.
    return _number(scalar) if isinstance(scalar, numbers.Number) else None


def _kind(value: object) -> str:
    shape = getattr(value, "shape", None)
    name = type(value).__name__
    if isinstance(value, int):
        return "an int beyond the range of floats"
    return f"{name} of shape {tuple(shape)}" if isinstance(shape, tuple) else name


def _shown(key: object) -> str:
    text = repr(key)
    return text if len(text) <= 64 else f"{text[:60]}..."
