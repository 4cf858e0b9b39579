"""The texts of exceptions of handlers: as they are stored, and as they are logged."""

import logging
from collections.abc import Callable
from typing import Final, TypeAlias

from graphjobs.core.sanitizing import printable
from graphjobs.errors import GraphJobsError

Redact: TypeAlias = Callable[[str], str]

_ERROR_CHARACTERS_MAX: Final = 100_000
_INNER_MAX: Final = 5
_INNER_CHARACTERS_MAX: Final = 500
_LOGGED_CHARACTERS_MAX: Final = 200

_log = logging.getLogger(__name__)


def error_text(error: BaseException) -> str:
    """Return the type and the text of an exception, bounded; the text comes from user code and is not trusted."""
    name = type_name(error)
    try:
        text = str(error)[:_ERROR_CHARACTERS_MAX]
        if isinstance(error, BaseExceptionGroup):
            inner = (error_text(inner)[:_INNER_CHARACTERS_MAX] for inner in error.exceptions[:_INNER_MAX])
            text = "; ".join([text, *inner])
    except BaseException:  # noqa: BLE001  # a user's class may raise any exception, SystemExit too
        return f"{name}, which has no readable text"
    if not text:
        return name
    return text if isinstance(error, GraphJobsError) else f"{name}: {text}"


def type_name(error: BaseException) -> str:
    """Return the name of the type of an exception; a user's metaclass cannot change it."""
    name: str = type.__dict__["__name__"].__get__(type(error))
    return name


def safe_repr(value: object) -> str:
    """Return the start of the repr of an object of user code, which may raise any exception."""
    try:
        return f"{value!r:.200}"
    except BaseException:  # noqa: BLE001
        return "an object without a readable text"


def stored_text(error: BaseException, redact: Redact | None) -> str:
    """Return the text of an exception as it is stored, where its tenant reads it.

    Args:
        error: the exception of a handler.
        redact: changes the text. If it fails, only the type of the exception is stored.
    """
    text = error_text(error)
    if redact is None:
        return text
    name = type_name(error)
    try:
        redacted: object = redact(text)
    except Exception as failure:  # noqa: BLE001  # the hook is the host's
        # Without the text of the failure, which may repeat the text of the error.
        _log.error("the redaction of the error of a handler raised %s: only its type is stored", type_name(failure))
        return name
    if isinstance(redacted, str):
        return redacted or name
    _log.error("the redaction of the error of a handler returned no text: only its type is stored")
    return name


def logged_text(text: object) -> str:
    """Return the start of a text as one line of a log, without characters that control a terminal."""
    return " ".join(printable(str(text))[:_LOGGED_CHARACTERS_MAX].splitlines())
