"""Loads a user's handlers by `module:attribute`, and opens the resources that they need."""

import importlib
import inspect
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from graphjobs.errors import ConfigurationError
from graphjobs.worker.handlers import Handlers


def load_handlers(location: str) -> Any:
    """Return the object at `module:attribute`; the current folder comes first in the search.

    Raises:
        ConfigurationError: there is no such attribute, or the import of the module fails.
    """
    module_name, separator, attribute = location.partition(":")
    if not (separator and module_name and attribute):
        raise ConfigurationError(f"handlers must be module:attribute, as shop.jobs:handlers, not {location!r}")
    current_folder = str(Path.cwd())
    if current_folder not in sys.path:
        sys.path.insert(0, current_folder)
    try:
        loaded: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            loaded = getattr(loaded, name)
    except Exception as error:  # noqa: BLE001  # an import runs the user's code
        problem = f"{type(error).__name__}: {error}"
    else:
        return loaded
    raise ConfigurationError(f"could not load the handlers {location}: {problem}")


@asynccontextmanager
async def open_handlers(loaded: Any, location: str) -> AsyncIterator[Handlers]:
    """Open the handlers for the time of the context.

    Args:
        loaded: `Handlers`, an asynchronous context manager of them (for pools and clients that have to be closed), or
            a function without arguments that returns either.
        location: the origin of the object, for errors.

    Raises:
        ConfigurationError: the object has another type, or fails to open.
    """
    handlers = loaded if isinstance(loaded, Handlers) or not callable(loaded) else _call(loaded, location)
    if not isinstance(handlers, AbstractAsyncContextManager):
        yield _check_handlers(handlers, location)
        return
    async with AsyncExitStack() as stack:
        try:
            opened = await stack.enter_async_context(handlers)
        except Exception as error:  # noqa: BLE001  # it runs the user's code
            problem = f"could not open the handlers {location}: {type(error).__name__}: {error}"
        else:
            yield _check_handlers(opened, location)
            return
    raise ConfigurationError(problem)


def _call(factory: Any, location: str) -> object:
    try:
        result: object = factory()
    except Exception as error:  # noqa: BLE001  # it runs the user's code
        problem = f"{type(error).__name__}: {error}"
    else:
        if not inspect.iscoroutine(result):
            return result
        result.close()
        problem = "an `async def` function is not supported; use a function or an asynchronous context manager"
    raise ConfigurationError(f"{location} must return graphjobs.worker.Handlers: {problem}")


def _check_handlers(handlers: object, location: str) -> Handlers:
    if isinstance(handlers, Handlers):
        return handlers
    name = type(handlers).__name__
    raise ConfigurationError(
        f"{location} must be graphjobs.worker.Handlers or a function that returns them, not {name}"
    )
