"""Converts BSON values to words, times, numbers and JSON. This module has no knowledge of jobs."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Never
from uuid import UUID

from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId

from graphjobs.backfill.transform.diagnostics import FieldRejected, describe
from graphjobs.backfill.transform.dotnet import parse_ticks
from graphjobs.backfill.transform.uuids import LegacyUuids, uuid_of
from graphjobs.core.json_values import DECODED_DEPTH_MAX, JSON_BYTES_MAX, JSON_DEPTH_MAX, nests_deeper
from graphjobs.core.unique_json import DuplicateKey, unique_object

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WORD_LENGTH_MAX: Final = 64
_TIME_LENGTH_MAX: Final = 64
_DIGITS_MAX: Final = 18
_DOCUMENT_LENGTH_MAX: Final = 1_048_576
_MICROSECOND_DIGITS: Final = 6

_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WHOLE: Final = re.compile(r"-?[0-9]{1,18}")
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?:[.,]([0-9]+))?"
    r"([Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?"
)


def to_kebab_case(word: str) -> str:
    """Convert a word from the spelling of .NET: `SbomVersion` becomes sbom-version."""
    return _HUMP.sub("-", word).lower() if len(word) <= _WORD_LENGTH_MAX and word.isascii() else ""


def parse_time(value: object) -> tuple[datetime, tuple[str, ...]] | None:
    """Parse a time, its ISO 8601 text, or ticks of .NET.

    Returns:
        The time in UTC and the codes of its changes; None if it is not a time of the years 0001 to 9999.
    """
    try:
        if isinstance(value, datetime):
            return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC), ()
        if isinstance(value, DatetimeMS):
            return _EPOCH + timedelta(milliseconds=int(value)), ()
        if type(value) is str:
            return _parse_time_text(value) if len(value) <= _TIME_LENGTH_MAX else None
        return parse_ticks(value)
    except (ValueError, OverflowError):
        return None


def _parse_time_text(text: str) -> tuple[datetime, tuple[str, ...]] | None:
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    day, clock, fraction, offset = match.groups()
    digits = (fraction or "0")[:_MICROSECOND_DIGITS].ljust(_MICROSECOND_DIGITS, "0")
    seconds = "" if clock.count(":") > 1 else ":00"
    if seconds and fraction:
        return None
    time = datetime.fromisoformat(f"{day}T{clock}{seconds}.{digits}{(offset or 'Z').upper()}").astimezone(UTC)
    codes = () if offset else ("taken as UTC",)
    cut = (fraction or "")[_MICROSECOND_DIGITS:].strip("0")
    return time, (*codes, "cut to microseconds") if cut else codes


def truncate_to_millis(time: datetime) -> datetime:
    """Truncate a time to the precision of MongoDB."""
    return time.replace(microsecond=time.microsecond // 1_000 * 1_000)


def parse_int(value: object) -> tuple[int | None, str]:
    """Convert a value to an integer without loss. Return it with the code of the change, or None."""
    if type(value) is Int64:
        return int(value), "was a 64-bit number"
    if type(value) is float and value.is_integer() and abs(value) < 10**_DIGITS_MAX:
        return int(value), "was a float"
    if type(value) is str and _WHOLE.fullmatch(value):
        return int(value), "was text"
    if type(value) is Decimal128:
        number = value.to_decimal()
        if number.is_finite() and number == int(number):
            return int(number), "was a decimal"
    return None, ""


def parse_json_object(text: str) -> dict[str, Any] | None:
    """Parse the JSON text of an object. Return None for any other text.

    Raises:
        DuplicateKey: an object of the text has a key twice.
    """
    if len(text) > _DOCUMENT_LENGTH_MAX or nests_deeper(text, DECODED_DEPTH_MAX):
        return None
    try:
        value = json.loads(text, object_pairs_hook=unique_object)
    except DuplicateKey:
        raise
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def bson_to_json(
    value: Mapping[Any, Any], field: str, legacy_uuids: LegacyUuids = "csharp"
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Convert a BSON document to JSON with sorted keys. `legacy_uuids` is the byte order of UUIDs of subtype 3.

    Returns:
        The JSON object and the codes of its changes.

    Raises:
        FieldRejected: the document is too deep or too large, or holds a type that JSON does not have.
    """
    converter = _JsonConverter(field, legacy_uuids)
    return converter.document(value, 0), tuple(sorted(converter.codes))


def bson_to_json_text(value: object, field: str, legacy_uuids: LegacyUuids = "csharp") -> str:
    """Convert any BSON value to JSON text.

    Raises:
        FieldRejected: as for `bson_to_json`, or a number is not finite.
    """
    converted, _ = bson_to_json({"value": value}, field, legacy_uuids)
    try:
        return json.dumps(converted["value"], ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise FieldRejected(field, "numbers must be finite") from None


class _JsonConverter:
    def __init__(self, field: str, legacy_uuids: LegacyUuids) -> None:
        self._legacy_uuids = legacy_uuids
        self.codes: set[str] = set()
        self._field = field
        self._bytes_left = JSON_BYTES_MAX  # an item takes at least one byte

    def document(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        self._check_limits(len(value), depth)
        for key in value:
            if type(key) is not str:
                self._reject(key)
        return {key: self._item(value[key], depth + 1) for key in sorted(value)}

    def _check_limits(self, items: int, depth: int) -> None:
        self._bytes_left -= items + 1
        if depth > JSON_DEPTH_MAX:
            raise FieldRejected(self._field, f"must nest at most {JSON_DEPTH_MAX} levels")
        if self._bytes_left < 0:
            raise FieldRejected(self._field, f"must be at most {JSON_BYTES_MAX:,} bytes of JSON")

    def _reject(self, value: object) -> Never:
        raise FieldRejected(self._field, f"holds {describe(value)}, which JSON does not support")

    def _item(self, value: object, depth: int) -> object:
        if value is None or type(value) in (str, bool, int, float):
            return value
        if isinstance(value, Mapping):
            return self.document(value, depth)
        if isinstance(value, list):
            self._check_limits(len(value), depth)
            return [self._item(item, depth + 1) for item in value]
        if isinstance(value, Int64):
            return int(value)
        if isinstance(value, datetime):
            parsed = parse_time(value)
            if parsed is None:
                self._reject(value)
            self.codes.add("a time as text")
            return parsed[0].isoformat().replace("+00:00", "Z")
        found = uuid_of(value, self._legacy_uuids)
        if found is not None:
            value = found[0]
        if isinstance(value, ObjectId | UUID):
            self.codes.add("an id as text")
            return str(value)
        return self._reject(value)
