"""Field types of stored values with their limits, and the frozen base model. No job and no database here.

Field types are core schemas where possible, not Python functions, so that validation, which runs for every row that
is read, stays in pydantic's compiled code.
"""

import re
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, TypeAlias
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from graphjobs.core.invalid_values import from_validation_error, too_deep_error
from graphjobs.core.json_values import VALUE_DEPTH_MAX, freeze_json, nests_deeper, to_plain_json
from graphjobs.core.sanitizing import ERROR_LENGTH_MAX
from graphjobs.errors import InvalidJob

NAME_LENGTH_MAX: Final = 256
"""Characters of a tenant, an id, a key. Two of them fit a B-tree entry of PostgreSQL: 2,704 bytes, 4 a character."""
REASON_LENGTH_MAX: Final = 1_048_576
"""The most characters of a reason that callers may give; the stored text keeps its head and tail."""
NAMES_MAX: Final = 1_000
_UUID_TEXT: Final = r"^[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$"
_YEAR_TEXT: Final = "([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LOCAL_TEXT: Final = f"^{_YEAR_TEXT}-[0-9]{{2}}-[0-9]{{2}}T[0-9]{{2}}:[0-9]{{2}}:[0-5][0-9](\\.[0-9]+)?"
_UTC_TEXT: Final = _LOCAL_TEXT + "Z$"
_TIME_TEXT: Final = _LOCAL_TEXT + "(Z|[+-][0-9]{2}:[0-9]{2})$"

_UUID: Final = re.compile(_UUID_TEXT)

JsonObject: TypeAlias = Mapping[str, Any]


def _matching(pattern: str, problem: str) -> CoreSchema:
    """Build the schema of text that matches a pattern, with its error text."""
    return core_schema.custom_error_schema(
        core_schema.str_schema(pattern=pattern, strict=True),
        custom_error_type="text",
        custom_error_message=problem,
    )


# As ranges, not \P{Cc}: the pattern is also in JSON schemas, which other regex engines read.
_NO_CONTROL: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"
_LINES: Final = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$"


@dataclass(frozen=True, slots=True)
class BoundedText:
    """Text of 1 to `length_max` characters, UTF-8 clean, no control characters; `multiline` allows tab and newline."""

    length_max: int
    multiline: bool = False

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        pattern, spared = (_LINES, " but tab and newline") if self.multiline else (_NO_CONTROL, "")
        return core_schema.custom_error_schema(
            core_schema.str_schema(min_length=1, max_length=self.length_max, pattern=pattern, strict=True),
            custom_error_type="text",
            custom_error_message=f"must be text of 1 to {self.length_max:,} characters, UTF-8 clean, "
            f"without control characters{spared}",
        )


@dataclass(frozen=True, slots=True)
class Pattern:
    """Text that matches a pattern; `problem` is the error text where it does not."""

    pattern: str
    problem: str

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _matching(self.pattern, self.problem)


class _Uuid:
    """A UUID, or its text of 36 characters; bytes, braces and URNs are refused."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.chain_schema(
            [
                _matching(_UUID_TEXT, "must be a UUID of 36 characters"),
                core_schema.uuid_schema(strict=False),
            ]
        )
        instance = core_schema.is_instance_schema(UUID)
        either = core_schema.union_schema([instance, text], mode="left_to_right")
        sentence = core_schema.custom_error_schema(
            either,
            custom_error_type="uuid",
            custom_error_message="must be a UUID, or its text of 36 characters",
        )
        return core_schema.json_or_python_schema(json_schema=text, python_schema=sentence)


class _UtcTime:
    """An aware time in UTC, or its text: ISO 8601 with an offset; fractions beyond microseconds are cut."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        # Without the pattern, a JSON string of digits passes as seconds since 1970, also in strict mode.
        time = core_schema.datetime_schema(strict=False, tz_constraint="aware")
        problem = "must be a time in ISO 8601 with an offset, in the years 0001 to 9999"
        # Stored times end in Z, and are read without calling Python code.
        in_utc = core_schema.chain_schema([_matching(_UTC_TEXT, problem), time])
        with_offset = _in_utc(core_schema.chain_schema([_matching(_TIME_TEXT, problem), time]))
        text = core_schema.union_schema(
            [in_utc, with_offset], mode="left_to_right", custom_error_type="text", custom_error_message=problem
        )
        aware = _in_utc(core_schema.datetime_schema(strict=True, tz_constraint="aware"))
        # Text is accepted from Python, too, so that what `model_dump(mode="json")` returns is valid input.
        either = core_schema.union_schema(
            [aware, text],
            mode="left_to_right",
            custom_error_type="time",
            custom_error_message="must be an aware time in the years 0001 to 9999, or its ISO 8601 text with an offset",
        )
        return core_schema.json_or_python_schema(json_schema=text, python_schema=either)


def _in_utc(schema: CoreSchema) -> CoreSchema:
    return core_schema.no_info_after_validator_function(_to_utc, schema)


def _to_utc(value: datetime) -> datetime:
    if value.tzinfo is UTC:
        return value
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("time", "must be a time in the years 0001 to 9999, also in UTC") from None


def check_size(value: object, size_max: int, what: str) -> None:
    """Refuse a collection by its size: pydantic would validate all items before, and report each invalid one."""
    if isinstance(value, Sized) and not isinstance(value, str | bytes | bytearray) and len(value) > size_max:
        raise PydanticCustomError("too_long", f"must have at most {size_max:,} {what}, not {len(value):,}")


def _bounded_list(value: object) -> object:
    """Return any iterable of names as a list, bounded so that an endless one is refused; a string is no list."""
    check_size(value, NAMES_MAX, "items")
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray | Mapping | list | tuple):
        return [item for item, _ in zip(value, range(NAMES_MAX + 1), strict=False)]
    return value


def _sorted_names(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(value)))


def _in_utf8(text: object) -> object:
    """Replace lone surrogates, which text from files or processes may hold and UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


Name: TypeAlias = Annotated[str, BoundedText(NAME_LENGTH_MAX)]
ErrorText: TypeAlias = Annotated[str, BoundedText(ERROR_LENGTH_MAX, multiline=True)]
Reason: TypeAlias = Annotated[str, Field(min_length=1, max_length=REASON_LENGTH_MAX), BeforeValidator(_in_utf8)]
"""Any text of why something failed, as callers give it; `sanitize_error` makes a stored error of it."""
# One schema for requests and answers; the patterns exclude what only the formats permit, such as lower case.
Id: TypeAlias = Annotated[UUID, _Uuid(), WithJsonSchema({"type": "string", "format": "uuid", "pattern": _UUID_TEXT})]
UtcTime: TypeAlias = Annotated[
    datetime, _UtcTime(), WithJsonSchema({"type": "string", "format": "date-time", "pattern": _TIME_TEXT})
]
Digest: TypeAlias = Annotated[
    str,
    Pattern(r"^sha256:[0-9a-f]{64}$", "must be 'sha256:' and 64 hexadecimal digits in lower case"),
]
NameSet: TypeAlias = Annotated[
    tuple[Name, ...],
    Field(strict=False, max_length=NAMES_MAX),
    BeforeValidator(_bounded_list),
    AfterValidator(_sorted_names),
]
"""A set of names, sorted and unique, as a tuple."""
Json: TypeAlias = Annotated[
    JsonObject,
    AfterValidator(freeze_json),
    PlainSerializer(to_plain_json, return_type=dict[str, Any]),
]
"""Any JSON object: at most 64 KiB, 32 levels, numbers finite and integers of 64 bits."""


_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)


def check_name(value: object, field: str) -> str:
    """Return a tenant, an id or a key, given as an argument.

    Raises:
        InvalidJob: it is not text of 1 to 256 characters, UTF-8 clean and without control characters.
    """
    try:
        return _NAME.validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]["msg"]
    raise InvalidJob(f"{field} {problem}", field=field)


def check_limit(value: object, *, limit_max: int) -> int:
    """Return the limit of a list.

    Raises:
        InvalidJob: it is not an integer between 1 and `limit_max`.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= limit_max:
        return value
    raise InvalidJob(f"limit must be between 1 and {limit_max:,}", field="limit")


def parse_id(value: object, field: str) -> UUID | None:
    """Parse an id given as a UUID or as text; None for text that is not a UUID, so that nothing is found by it.

    Raises:
        InvalidJob: it is neither a UUID nor text.
    """
    if isinstance(value, UUID):
        return value
    if isinstance(value, str):
        return UUID(value) if _UUID.fullmatch(value) else None
    raise InvalidJob(f"{field} must be a UUID or its text, not {type(value).__name__}", field=field)


def as_uuid(value: UUID) -> UUID:
    """Return a plain UUID: the driver's own subclass neither pickles nor compares by type."""
    return UUID(int=value.int)


class FrozenModel(BaseModel):
    """A frozen value that is validated when it is made, raises `InvalidJob`, and has camelCase JSON.

    Copies with changes, `model_construct` and unpickling validate, too.

    Strict: nothing is coerced silently (no bool for a number, no naive time, no unknown field).
    """

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        loc_by_alias=False,
    )

    if not TYPE_CHECKING:  # a type checker reads the fields instead

        def __init__(self, /, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                invalid = from_validation_error(error)
            else:
                return
            raise invalid

        # The mark tells pydantic that this is its own method, so that nested and JSON input is validated without it.
        __init__.__pydantic_base_init__ = True

        # Pydantic's own forms of these two, and of `__setstate__`, accept any value.
        @classmethod
        def model_construct(cls, _fields_set: set[str] | None = None, **fields: Any) -> Self:
            """Return a value as the constructor does."""
            return cls(**fields)

        def copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
            """Copy as `model_copy` does, the name that pydantic has now."""
            return self.model_copy(update=update, deep=deep)

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Restore a pickled value, validated as a whole."""
        FrozenModel.__init__(self, **state["__dict__"])
        self.__pydantic_fields_set__.intersection_update(state["__pydantic_fields_set__"])

    @classmethod
    def from_json(cls, text: str | bytes, *, stored: bool = False) -> Self:
        """Parse a payload: a JSON object with camelCase keys.

        Args:
            text: the JSON.
            stored: whether it is that of a row, to which limits that are newer than the row do not apply.

        Raises:
            InvalidJob: the text is not JSON, or not such a value.
        """
        try:
            value: Self = cls.__pydantic_validator__.validate_json(
                text, by_alias=True, by_name=False, context={"stored": True} if stored else None
            )
        except ValidationError as error:
            is_deep = nests_deeper(text, VALUE_DEPTH_MAX)
            invalid = too_deep_error(error.title) if is_deep else from_validation_error(error)
        else:
            return value
        raise invalid

    def to_json(self) -> str:
        """Return the payload; equal values give equal text. Fields that are None are left out."""
        return self.__pydantic_serializer__.to_json(self, by_alias=True, exclude_none=True).decode()

    def replace(self, **fields: Any) -> Self:
        """Return a new value with these fields changed, validated as a whole.

        Raises:
            InvalidJob: the new value is not valid.
        """
        return type(self)(**{**self.__dict__, **fields})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy as pydantic does, but validate the changes; `deep` copies nothing, because values are immutable."""
        return self.replace(**update) if update else self


def utc_now() -> datetime:
    """Return the current time, aware."""
    return datetime.now(UTC)
