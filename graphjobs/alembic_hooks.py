"""Hooks for the env.py of a host: its `alembic revision --autogenerate` then ignores the tables of graphjobs."""

from collections.abc import Mapping
from typing import Any, Final

import graphjobs.backfill.tables
import graphjobs.graph_jobs.tables
import graphjobs.policy_runs.tables  # noqa: F401  # their import declares the tables
from graphjobs.database.schema import SCHEMA, VERSION_TABLE, Base

_TABLES: Final = frozenset({VERSION_TABLE, *(table.name for table in Base.metadata.tables.values())})


def include_name(name: str | None, type_: str, parent_names: Mapping[Any, str | None]) -> bool:
    """Return False for the tables of graphjobs; pass it to `context.configure`, or call it in a hook of your own.

    Args:
        name: the name of the reflected object.
        type_: its kind, such as "table".
        parent_names: the names that it belongs to, such as "schema_name".
    """
    return not (type_ == "table" and name in _TABLES and parent_names.get("schema_name") == SCHEMA)


def include_object(object_: Any, name: str | None, type_: str, reflected: bool, _compare_to: Any) -> bool:
    """Return False for the tables of graphjobs; the same as `include_name`, for environments that use this hook.

    Args:
        object_: the object.
        name: its name.
        type_: its kind, such as "table".
        reflected: whether the object is one of the database.
    """
    return not (type_ == "table" and reflected and name in _TABLES and object_.schema == SCHEMA)
