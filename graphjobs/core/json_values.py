"""JSON from callers as immutable values: bounded, and such that JSONB returns it unchanged."""

import json
import math
import re
from collections.abc import Mapping, Sized
from decimal import Decimal
from typing import Any, Final

from immutabledict import immutabledict
from pydantic_core import PydanticCustomError, from_json

JSON_BYTES_MAX: Final = 65_536
JSON_DEPTH_MAX: Final = 32
JSON_INTEGER_MAX: Final = 2**63 - 1
DECODED_DEPTH_MAX: Final = 500
"""The most levels that Python's recursive decoders are given. Python 3.11 allows the fewest frames, 1,000 in all."""
VALUE_DEPTH_MAX: Final = 200
"""The most levels that pydantic's reader takes. More than `JSON_DEPTH_MAX` is refused later, naming the field."""
_WRITTEN_OUT_FROM: Final = 1e16
"""From this number on, Python writes a float with an exponent and without a point."""
# Everything up to and including the next bracket outside of strings; an opening one is group 1. It matches at any
# position, also in an unterminated string, so that the time is linear in the length.
_UP_TO_BRACKET: Final = re.compile(
    rb'[^"{}\[\]]*+(?:"(?:[^"\\]++|\\.?)*+(?:"|\Z)[^"{}\[\]]*+)*+(?:([{\[])|[}\]]|\Z)', re.DOTALL
)
_dump_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def freeze_json(value: Mapping[str, Any]) -> object:
    """Return JSON of at most 64 KiB, frozen."""
    frozen = _frozen(value, 0, [JSON_BYTES_MAX // 2])
    try:
        text = _dump_json(value)
    except TypeError:  # frozen already, or of other mapping types
        text = _dump_json(to_plain_json(frozen))
    if len(text) * 4 <= JSON_BYTES_MAX:  # a character takes at most 4 bytes
        return frozen
    # The frozen form is measured: JSONB writes 1e300 out in full, and an accepted value must be readable again.
    size = len(_dump_json(to_plain_json(frozen)).encode())
    if size > JSON_BYTES_MAX:
        raise PydanticCustomError("json", f"JSON must take at most {JSON_BYTES_MAX:,} bytes, not {size:,}")
    return frozen


def _frozen(value: object, depth: int, items_left: list[int]) -> object:
    """Return JSON as immutable values; refuse what PostgreSQL or Python could not read back."""
    if depth > JSON_DEPTH_MAX:
        raise PydanticCustomError("json", f"JSON must nest at most {JSON_DEPTH_MAX} levels")
    # The most frequent types first, by identity: this runs for every row that is read.
    kind = type(value)
    if kind is str:
        return _check_storable(value)  # type: ignore[arg-type]  # it is
    if value is None or kind is bool:
        return value
    match value:
        case dict() | Mapping():
            _count_items(value, items_left)
            if not all(isinstance(key, str) for key in value):
                raise PydanticCustomError("json", "the keys of a JSON object must be text")
            return immutabledict(
                {_check_storable(key): _frozen(item, depth + 1, items_left) for key, item in value.items()}
            )
        case list() | tuple():
            _count_items(value, items_left)
            return tuple([_frozen(item, depth + 1, items_left) for item in value])
        case int():
            return int(value) if abs(value) <= JSON_INTEGER_MAX else _large_number(value)
        case float():
            if not math.isfinite(value):
                raise PydanticCustomError("json", "a JSON number must be finite")
            return value if abs(value) < _WRITTEN_OUT_FROM else _as_jsonb_integer(value)
        case str():
            # An enum member, for example, would be of another type after a round trip.
            return _check_storable(str(value))
    raise PydanticCustomError("json", "JSON must be text, a number, true, false, null, a list or an object")


def _count_items(value: Sized, items_left: list[int]) -> None:
    """Refuse JSON that cannot fit before all of it is read: each item takes at least two bytes."""
    items_left[0] -= len(value)
    if items_left[0] < 0:
        raise PydanticCustomError("json", f"JSON must take at most {JSON_BYTES_MAX:,} bytes: it has too many items")


def _as_jsonb_integer(value: float) -> float | int:
    """Return a large number as JSONB returns it: written out, and so an integer."""
    whole = int(Decimal(repr(value)))
    return whole if abs(whole) <= JSON_INTEGER_MAX else value


def _large_number(value: int) -> float:
    """Return the float that JSONB has written out as an integer: it stores 1e30 as a one and thirty zeros.

    Raises:
        PydanticCustomError: the integer is not a written-out float, so a float would change it.
    """
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isfinite(number) and Decimal(repr(number)) == value:
        return number
    raise PydanticCustomError("json", "a JSON integer must fit 64 bits")


def _check_storable(text: str) -> str:
    """Return text that JSONB can store: no NUL and no lone surrogate."""
    surrogate = not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text)
    if surrogate or "\0" in text:
        raise PydanticCustomError("json", "JSON text must hold neither NUL nor a lone surrogate")
    return text


def to_plain_json(value: Any) -> Any:
    """Return frozen JSON as dicts and lists, as `json.dumps` takes them."""
    if isinstance(value, Mapping):
        return {key: to_plain_json(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [to_plain_json(item) for item in value]
    return value


def nests_deeper(text: str | bytes, levels: int) -> bool:
    """Return whether JSON nests deeper than a number of levels, by its brackets, without decoding it.

    Each object and each list is a level. In malformed JSON, at least the levels before the malformed place count.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if raw.count(b"{") + raw.count(b"[") <= levels:
        return False
    depth = 0
    for bracket in _UP_TO_BRACKET.finditer(raw):
        depth += 1 if bracket.lastindex else -1
        if depth > levels:
            return True
    return False


def too_deep(levels: int, form: str = "JSON") -> str:
    """Return the error text for JSON or BSON that nests too deep."""
    return f"{form} must not nest deeper than {levels:,} levels"


def read_json(text: str | bytes) -> Any:
    """Parse JSON with pydantic's reader.

    Raises:
        ValueError: the text is malformed, or nests deeper than 200 levels.
    """
    try:
        return from_json(text)
    except ValueError:
        if not nests_deeper(text, VALUE_DEPTH_MAX):
            raise
    raise ValueError(too_deep(VALUE_DEPTH_MAX))
