"""What users build on, as text: the OpenAPI document and the names that `graphjobs` exports."""

import inspect
import json
from enum import Enum
from pathlib import Path
from typing import Any, Final

import graphjobs
from graphjobs.web import create_app

_FOLDER: Final = Path(__file__).parent
OPENAPI: Final = _FOLDER / "openapi.json"
PUBLIC_NAMES: Final = _FOLDER / "public_names.txt"
CLI_KEYS: Final = _FOLDER / "cli_json_keys.json"


def openapi_text() -> str:
    """Return the OpenAPI document of the web service, as it is committed."""
    return json.dumps(create_app().openapi(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def public_names_text() -> str:
    """List each exported name with the names of its own, a line each."""
    lines = []
    for name in sorted(graphjobs.__all__):
        value = getattr(graphjobs, name)
        lines.append(name)
        if inspect.isclass(value):
            lines += [f"{name}.{member}" for member in sorted(_members(value))]
    return "\n".join(lines) + "\n"


def _members(cls: type[Any]) -> set[str]:
    if issubclass(cls, Enum):
        return set(cls.__members__)
    own = {name for base in cls.__mro__ if base.__module__.startswith("graphjobs") for name in vars(base)}
    declared = {name for base in cls.__mro__ for name in getattr(base, "__annotations__", {})}
    ours = {name for name in own | declared if not name.startswith(("_", "model_"))}
    return ours | set(getattr(cls, "model_fields", {}))
