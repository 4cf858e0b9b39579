"""JSON of anybody's as values that cannot change: bounded, and such that PostgreSQL gives it back as it was."""

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from immutabledict import immutabledict
from pydantic_core import PydanticCustomError, from_json

JSON_BYTES_MAX: Final = 65_536
JSON_DEPTH_MAX: Final = 32
JSON_INTEGER_MAX: Final = 2**63 - 1
DECODED_DEPTH_MAX: Final = 500
"""The most levels that Python's decoders are given: they recurse, and each Python lets them by another depth.

Python 3.11 allows the fewest, 1,000 with all that has been called before; half of them are left to that.
"""
VALUE_DEPTH_MAX: Final = 200
"""The most levels that pydantic's own reader takes, on every Python; what nests deeper than `JSON_DEPTH_MAX` is refused
later, by a sentence that names the field."""
_WRITTEN_OUT_FROM: Final = 1e16
"""From here on a float is written with an exponent, and without a point."""
# What is no bracket, texts included, and the bracket after it: one that opens is group 1. It matches anywhere, also
# where a text or a backslash ends with the whole, so that the time is in proportion to the length.
_UP_TO_BRACKET: Final = re.compile(
    rb'[^"{}\[\]]*+(?:"(?:[^"\\]++|\\.?)*+(?:"|\Z)[^"{}\[\]]*+)*+(?:([{\[])|[}\]]|\Z)', re.DOTALL
)
_dump_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def freeze_json(value: Mapping[str, Any]) -> object:
    """Lets JSON of at most 64 KiB pass, frozen."""
    frozen = _frozen(value)
    try:
        text = _dump_json(value)
    except TypeError:  # frozen before, or of other kinds of mappings
        text = _dump_json(to_plain_json(frozen))
    if len(text) * 4 <= JSON_BYTES_MAX:  # no character takes more
        return frozen
    # As it was frozen: JSONB writes a short 1e300 out, and what was let in has to come back.
    size = len(_dump_json(to_plain_json(frozen)).encode())
    if size > JSON_BYTES_MAX:
        raise PydanticCustomError("json", f"JSON should take at most {JSON_BYTES_MAX} bytes, not {size}")
    return frozen


def _frozen(value: object, depth: int = 0) -> object:
    """Gives JSON as values that cannot change; refuses what PostgreSQL or Python could not read back."""
    if depth > JSON_DEPTH_MAX:
        raise PydanticCustomError("json", f"JSON should nest at most {JSON_DEPTH_MAX} levels")
    # What most of JSON is made of goes first, by its very type: a row's is read each time the row is.
    kind = type(value)
    if kind is str:
        return _check_storable(value)  # type: ignore[arg-type]  # it is
    if value is None or kind is bool:
        return value
    match value:
        case dict() | Mapping():
            if not all(isinstance(key, str) for key in value):
                raise PydanticCustomError("json", "the keys of a JSON object should be text")
            return immutabledict({_check_storable(key): _frozen(item, depth + 1) for key, item in value.items()})
        case list() | tuple():
            return tuple([_frozen(item, depth + 1) for item in value])
        case int():
            return int(value) if abs(value) <= JSON_INTEGER_MAX else _large_number(value)
        case float():
            if not math.isfinite(value):
                raise PydanticCustomError("json", "a JSON number should be finite")
            return value if abs(value) < _WRITTEN_OUT_FROM else _as_jsonb_integer(value)
        case str():
            # str() of an enum member, say, would be another type after a round trip.
            return _check_storable(str(value))
    raise PydanticCustomError("json", "JSON is text, numbers, true, false, null, lists and objects")


def _as_jsonb_integer(value: float) -> float | int:
    """Gives the number as JSONB gives it back: it writes large ones out, and then they are whole numbers."""
    whole = int(Decimal(repr(value)))
    return whole if abs(whole) <= JSON_INTEGER_MAX else value


def _large_number(value: int) -> float:
    """Gives the number that JSONB has written out: it stores 1e30 as a one and thirty zeros.

    Raises:
        PydanticCustomError: it is no such number, and a float would not be the same.
    """
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isfinite(number) and Decimal(repr(number)) == value:
        return number
    raise PydanticCustomError("json", "a JSON integer should fit 64 bits")


def _check_storable(text: str) -> str:
    """JSONB takes neither NUL nor a lone surrogate."""
    surrogate = not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text)
    if surrogate or "\0" in text:
        raise PydanticCustomError("json", "JSON text should hold neither NUL nor a lone surrogate")
    return text


def to_plain_json(value: Any) -> Any:
    """Gives frozen JSON as plain dicts and lists again, as `json.dumps` takes them."""
    if isinstance(value, Mapping):
        return {key: to_plain_json(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [to_plain_json(item) for item in value]
    return value


def nests_deeper(text: str | bytes, levels: int) -> bool:
    """Tells by its brackets whether JSON nests deeper than so many levels; it is not decoded.

    Each object and each list is a level. Of what is no JSON, at least those levels count that come before the place
    where a decoder sees it.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if raw.count(b"{") + raw.count(b"[") <= levels:  # as nearly always
        return False
    depth = 0
    for bracket in _UP_TO_BRACKET.finditer(raw):
        depth += 1 if bracket.lastindex else -1
        if depth > levels:
            return True
    return False


def too_deep(levels: int, form: str = "JSON") -> str:
    """Says what is wrong with what nests deeper."""
    return f"{form} must not nest deeper than {levels:,} levels"


def read_json(text: str | bytes) -> Any:
    """Reads JSON as pydantic does.

    Raises:
        ValueError: it is no JSON, or nests too deep.
    """
    try:
        return from_json(text)
    except ValueError:
        if not nests_deeper(text, VALUE_DEPTH_MAX):
            raise
    raise ValueError(too_deep(VALUE_DEPTH_MAX))
