"""What is told of a document: changes on the way, and refusals, whose sentences never repeat what stood there."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple

from bson.datetime_ms import DatetimeMS

from graphjobs.core.fields import sanitize_error

_LABEL_LENGTH_MAX: Final = 100


class FieldChange(NamedTuple):
    """What was changed on the way.

    Attributes:
        field: the document's field, as it is spelled there.
        code: what was done, in few words that are always the same, so that they can be counted.
    """

    field: str
    code: str


class FieldRejected(Exception):
    """A field that cannot come; it ends the reading of its document."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


def describe(value: object) -> str:
    """Says of which type and length something is, and never what it is."""
    match value:
        case None:
            return "nothing"
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
    """Gives a field's name, which may be anybody's own, fit for a sentence."""
    return sanitize_error(str(name)[:_LABEL_LENGTH_MAX])
