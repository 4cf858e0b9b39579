"""Field changes and rejections of a document. Their texts never repeat a value of the document."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple

from bson.datetime_ms import DatetimeMS

from graphjobs.core.sanitizing import sanitize_error

_LABEL_LENGTH_MAX: Final = 100


class FieldChange(NamedTuple):
    """A change of a field by the mapping.

    Attributes:
        field: the field as the document spells it.
        code: a short constant text, so that changes can be counted.
    """

    field: str
    code: str


class FieldRejected(Exception):
    """A field that rejects its document."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


def describe(value: object) -> str:
    """Describe a value by its type and length."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            kind = "text" if type(value) is str else type(value).__name__
            return f"{kind} of {len(value):,} characters"
        case int():
            return "a whole number"
        case float():
            return "a number" if math.isfinite(value) else "a number that is not finite"
        case datetime():
            return "a time"
        case DatetimeMS():
            return "a time outside the years 0001 to 9999"
        case bytes():
            return f"{len(value):,} bytes of subtype {getattr(value, 'subtype', 0)}"
        case Mapping():
            return f"a document of {len(value):,} fields"
        case list() | tuple():
            return f"a list of {len(value):,}"
    return f"a value of type {type(value).__name__}"


def safe_label(name: object) -> str:
    """Return a document's key, which may be any text, cut and cleaned for a message."""
    return sanitize_error(str(name)[:_LABEL_LENGTH_MAX])
