"""The forms in which the driver of .NET writes times, enumerations and types. Pure, no knowledge of jobs.

Source: the serializers of MongoDB.Bson 2.30 and 3.4 (`DateTimeOffsetSerializer`, `DateTimeSerializer`,
`DiscriminatedWrapperSerializer`, `DictionarySerializerBase`).
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64

_TICKS_PER_SECOND: Final = 10_000_000
_TICKS_PER_MICROSECOND: Final = 10
_TICKS_MAX: Final = 3_155_378_975_999_999_999
_TICKS_ALONE_MIN: Final = 300_000_000_000_000_000
"""Ticks of the year 951. Milliseconds of the year 9999 are a thousandth of it; 0 is the smallest time of .NET."""

_OFFSET_MINUTES_MAX: Final = 14 * 60
_FIRST: Final = datetime(1, 1, 1, tzinfo=UTC)
_OFFSET_MAX: Final = timedelta(minutes=_OFFSET_MINUTES_MAX)
_UNSET_UNTIL: Final = _FIRST + _OFFSET_MAX
_UNSET_FROM: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - _OFFSET_MAX
_MILLIS_MIN: Final = -62_135_596_800_000
_MILLIS_MAX: Final = 253_402_300_799_999
_MILLIS_OF_OFFSET_MAX: Final = _OFFSET_MINUTES_MAX * 60_000
# Six digits are the text of an export of graphjobs, which is exact; .NET writes none, three or seven.
_UNSET_TEXT: Final = re.compile(
    r"(?:0001-01-01[Tt ]00:00(?::00(?:[.,]0+)?)?|9999-12-31[Tt ]23:59:59(?:[.,][0-9]+)?)"
    r"(?:[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?"
)
_EXACT_TEXT: Final = re.compile(r".*[.,][0-9]{6}(?![0-9]).*", re.DOTALL)
_WITH_TICKS: Final = ({"DateTime", "Ticks"}, {"DateTime", "Ticks", "Offset"})
_WRAPPER: Final = {"_t", "_v"}


def unwrap(value: Any) -> Any:
    """Return the value of a document `{_t, _v}`, which the driver writes where the declared type is a base type."""
    if type(value) is dict and len(value) == len(_WRAPPER) and value.keys() == _WRAPPER:
        return value["_v"]
    return value


def entries_of(value: Any) -> dict[str, Any] | None:
    """Return the entries of a dictionary that was written as an array, of pairs or of `{k, v}`; None for others.

    An empty array is an empty dictionary.
    """
    if type(value) is not list:
        return None
    pairs = [tuple(item) if type(item) is list else _key_and_value(item) for item in value]
    if any(len(pair) != len(_WRAPPER) or type(pair[0]) is not str for pair in pairs):
        return None
    entries = dict(pairs)
    return entries if len(entries) == len(pairs) else None


def _key_and_value(item: object) -> tuple[Any, ...]:
    return (item["k"], item["v"]) if isinstance(item, Mapping) and item.keys() == {"k", "v"} else ()


def is_unset_time(value: object) -> bool:
    """Return whether a value is the smallest or the largest time of .NET, at any offset: they mean "no time"."""
    if isinstance(value, datetime):
        time = value if value.tzinfo else value.replace(tzinfo=UTC)
        return time <= _UNSET_UNTIL or time >= _UNSET_FROM
    if isinstance(value, DatetimeMS):
        millis = int(value)
        return not (_MILLIS_MIN <= millis <= _MILLIS_MAX) and (
            _MILLIS_MIN - _MILLIS_OF_OFFSET_MAX <= millis <= _MILLIS_MAX + _MILLIS_OF_OFFSET_MAX
        )
    if type(value) is str:
        return _UNSET_TEXT.fullmatch(value) is not None and not is_exact_time_text(value)
    ticks = _ticks_and_offset(value)
    if ticks is None or _TICKS_PER_SECOND <= ticks[0] <= _TICKS_MAX - _TICKS_PER_SECOND:
        return False
    return not isinstance(value, Mapping) or is_unset_time(value["DateTime"])


def is_exact_time_text(text: str) -> bool:
    """Return whether a time has six digits of a fraction, as graphjobs writes it and .NET does not."""
    return _EXACT_TEXT.fullmatch(text) is not None


def parse_ticks(value: object) -> tuple[datetime, tuple[str, ...]] | None:
    """Parse a time that was written with ticks of 100 ns since the year 1 of the local clock.

    Args:
        value: `[ticks, minutes of the offset]`, `{DateTime, Ticks, Offset}`, or without an offset in UTC; or the ticks
            of a time in UTC as one 64-bit number.

    Returns:
        The time in UTC and the codes of its changes; None if it is no such time, or its parts contradict one another.
    """
    parts = _ticks_and_offset(value)
    if parts is None:
        return None
    ticks, minutes = parts
    try:
        time = _FIRST + timedelta(microseconds=ticks // _TICKS_PER_MICROSECOND) - timedelta(minutes=minutes)
    except OverflowError:
        return None
    form = "was ticks and an offset" if type(value) is list else "was ticks"
    if isinstance(value, Mapping):
        form = "was a document with ticks"
        if value["DateTime"] != time.replace(microsecond=time.microsecond // 1_000 * 1_000, tzinfo=None):
            return None
    return time, (form, "cut to microseconds") if ticks % _TICKS_PER_MICROSECOND else (form,)


def _is_ticks(value: Any) -> bool:
    """Return whether a number alone is ticks: milliseconds or seconds since 1970 are never that large."""
    return type(value) in (int, Int64) and (value == 0 or _TICKS_ALONE_MIN <= value <= _TICKS_MAX)


def _ticks_and_offset(value: Any) -> tuple[int, int] | None:
    if isinstance(value, Mapping):
        if value.keys() not in _WITH_TICKS or not isinstance(value["DateTime"], datetime | DatetimeMS):
            return None
        value = [value["Ticks"], value.get("Offset", 0)]
    if _is_ticks(value):
        return int(value), 0
    if type(value) is not list or len(value) != 2:  # ticks and offset
        return None
    ticks, offset = value
    if type(offset) is float and offset.is_integer():
        offset = int(offset)
    if type(ticks) not in (int, Int64) or type(offset) not in (int, Int64):
        return None
    if not 0 <= ticks <= _TICKS_MAX or abs(offset) > _OFFSET_MINUTES_MAX:
        return None
    return int(ticks), int(offset)
