"""The errors of invalid values: which fields, and their limits, never the input."""

from typing import Final

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from graphjobs.core.json_values import VALUE_DEPTH_MAX, too_deep
from graphjobs.core.sanitizing import sanitize_error
from graphjobs.errors import InvalidJob

PROBLEMS_MAX: Final = 100
"""The most problems that one error lists."""
_COUNTED_PROBLEMS_MAX: Final = 1_000
_PART_LENGTH_MAX: Final = 100


def too_deep_error(title: str) -> InvalidJob:
    """Build the error of a value that nests too deep to be read."""
    problem = too_deep(VALUE_DEPTH_MAX)
    return InvalidJob(f"{title}: {problem}", problems=[("", problem)])


def from_validation_error(error: ValidationError) -> InvalidJob:
    """Build an `InvalidJob` from pydantic's error: the first fields and their limits, never the input."""
    count = error.error_count()
    if count > _COUNTED_PROBLEMS_MAX:
        # pydantic builds all of its errors or none: 8 us for each.
        problems = [("", f"has {count:,} invalid fields, too many to list")]
    else:
        problems = [
            (".".join(_part(part) for part in found["loc"]), found["msg"])
            for found in error.errors(include_url=False, include_input=False, include_context=False)[:PROBLEMS_MAX]
        ]
    field, problem = problems[0]
    more = f" (and {count - 1:,} more)" if field and count > 1 else ""
    return InvalidJob(f"{error.title}{'.' if field else ''}{field}: {problem}{more}", field=field, problems=problems)


def _part(part: object) -> str:
    """Return a part of a field's path; a key of a mapping is the caller's own text, so it is sanitized."""
    return sanitize_error(str(part)[:_PART_LENGTH_MAX]) if part != "" else ""


def invariant_error(rule: str) -> PydanticCustomError:
    """Build the error of a broken invariant, for validators to raise."""
    # The rule is a context value, because pydantic would interpret braces in a template.
    return PydanticCustomError("invariant", "{rule}", {"rule": rule})
