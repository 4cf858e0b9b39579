"""Metadata of jobs, runs and requests: the caller's own entries, bounded as a whole."""

from collections.abc import Mapping
from typing import Annotated, Final, TypeAlias

from immutabledict import immutabledict
from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, PlainSerializer, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema, to_json

from graphjobs.core.fields import BoundedText, Name, check_size

METADATA_ENTRIES_MAX: Final = 64
METADATA_VALUE_LENGTH_MAX: Final = 4_096
METADATA_BYTES_MAX: Final = 65_536
"""The bytes of metadata as JSON, keys and values together."""

_NO_ENTRIES: Final[immutabledict[str, str]] = immutabledict()


class _StoredMetadata(immutabledict[str, str]):
    """Metadata of a row that was stored before its size was bounded: the value stays readable, and can be changed."""


class _Metadata:
    """Sorts metadata and bounds its size, except that of a row that was stored before the bound."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        entries = handler(source)
        return core_schema.json_or_python_schema(
            json_schema=core_schema.with_info_wrap_validator_function(_metadata_from_json, entries),
            python_schema=core_schema.no_info_wrap_validator_function(_metadata_from_python, entries),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return one schema for requests and answers."""
        return {
            "type": "object",
            "maxProperties": METADATA_ENTRIES_MAX,
            "propertyNames": _KEY.json_schema(),
            "additionalProperties": _VALUE.json_schema(),
        }


def _metadata_from_json(
    value: object, validate: core_schema.ValidatorFunctionWrapHandler, info: core_schema.ValidationInfo
) -> immutabledict[str, str]:
    check_size(value, METADATA_ENTRIES_MAX, "entries")
    return _bounded_metadata(validate(value), is_stored=info.context is not None)


def _metadata_from_python(value: object, validate: core_schema.ValidatorFunctionWrapHandler) -> immutabledict[str, str]:
    check_size(value, METADATA_ENTRIES_MAX, "entries")
    return _bounded_metadata(validate(value), is_stored=type(value) is _StoredMetadata)


def metadata_bytes(entries: Mapping[str, str]) -> int:
    """Return the size of metadata as JSON; short metadata is not measured, and its size is at most this."""
    # A character takes at most 6 bytes in JSON, and an entry 6 more for its quotes and signs.
    bound = 6 * sum(len(key) + len(item) + 1 for key, item in entries.items())
    return bound if bound <= METADATA_BYTES_MAX else len(to_json(dict(entries)))


def _bounded_metadata(value: Mapping[str, str], *, is_stored: bool) -> immutabledict[str, str]:
    if not value:
        return _NO_ENTRIES
    entries = immutabledict(sorted(value.items()))
    size = metadata_bytes(entries)
    if size <= METADATA_BYTES_MAX:
        return entries
    if is_stored:
        return _StoredMetadata(entries)
    raise PydanticCustomError("metadata", f"must take at most {METADATA_BYTES_MAX:,} bytes as JSON, not {size:,}")


_Text: TypeAlias = Annotated[str, BoundedText(METADATA_VALUE_LENGTH_MAX, multiline=True)]
_KEY: Final[TypeAdapter[str]] = TypeAdapter(Name)
_VALUE: Final[TypeAdapter[str]] = TypeAdapter(_Text)

Metadata: TypeAlias = Annotated[
    Mapping[Name, _Text],
    Field(max_length=METADATA_ENTRIES_MAX),
    _Metadata(),
    PlainSerializer(dict, return_type=dict[str, str]),
]
"""The caller's own entries: at most 64, a value of at most 4,096 characters, and together 64 KiB as JSON."""
