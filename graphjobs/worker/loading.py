"""Finds a user's handlers by `module:attribute`, and opens what they need."""

import importlib
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from graphjobs.errors import ConfigurationError
from graphjobs.worker.handlers import Handlers


def load_handlers(place: str) -> Any:
    """Gives what stands at `module:attribute`; the current folder is looked in first.

    Raises:
        ConfigurationError: there is nothing there, or the module cannot be imported.
    """
    module_name, separator, attribute = place.partition(":")
    if not (separator and module_name and attribute):
        raise ConfigurationError(
            f"{place!r} names no handlers: give them as module:attribute, as in shop.jobs:handlers"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            found = getattr(found, name)
    except Exception as error:  # noqa: BLE001  # importing runs whatever the module does
        problem = f"{type(error).__name__}: {error}"
    else:
        return found
    raise ConfigurationError(f"the handlers {place} cannot be loaded: {problem}")


@asynccontextmanager
async def open_handlers(found: Any, place: str) -> AsyncIterator[Handlers]:
    """Gives the handlers, for as long as they are needed.

    Args:
        found: `Handlers`; or a function without arguments that gives them, or an asynchronous context manager of them
            (for pools and clients that close again).
        place: where it was found, for errors.

    Raises:
        ConfigurationError: it is none of these.
    """
    given = found
    if not isinstance(given, Handlers) and callable(given):
        given = given()
    if isinstance(given, AbstractAsyncContextManager):
        async with given as opened:
            yield _require_handlers(opened, place)
        return
    yield _require_handlers(given, place)


def _require_handlers(given: object, place: str) -> Handlers:
    if isinstance(given, Handlers):
        return given
    raise ConfigurationError(
        f"{place} should be graphjobs.worker.Handlers, or a function that gives them, not {type(given).__name__}"
    )
