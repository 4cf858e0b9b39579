"""Finds a user's handlers by `module:attribute`, and opens what they need."""

import importlib
import inspect
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
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
        ConfigurationError: it is none of these, or cannot be opened.
    """
    given = found if isinstance(found, Handlers) or not callable(found) else _called(found, place)
    if not isinstance(given, AbstractAsyncContextManager):
        yield _require_handlers(given, place)
        return
    async with AsyncExitStack() as stack:
        try:
            opened = await stack.enter_async_context(given)
        except Exception as error:  # noqa: BLE001  # whatever it opens may be away
            problem = f"the handlers of {place} cannot be opened: {type(error).__name__}: {error}"
        else:
            yield _require_handlers(opened, place)
            return
    raise ConfigurationError(problem)


def _called(made: Callable[[], object], place: str) -> object:
    try:
        given = made()
    except Exception as error:  # noqa: BLE001  # it is the user's own
        problem = f"{type(error).__name__}: {error}"
    else:
        if not inspect.iscoroutine(given):
            return given
        given.close()
        problem = "it should be no `async def`, but a function, or an asynchronous context manager"
    raise ConfigurationError(f"{place} should give graphjobs.worker.Handlers when it is called: {problem}")


def _require_handlers(given: object, place: str) -> Handlers:
    if isinstance(given, Handlers):
        return given
    raise ConfigurationError(
        f"{place} should be graphjobs.worker.Handlers, or a function that gives them, not {type(given).__name__}"
    )
