"""The schema `scheduler`: the metadata of all tables, the constraint names, and the newest revision."""

from typing import Final

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

SCHEMA: Final = "scheduler"
"""The host's earlier migrations own this schema: graphjobs creates it only where it is missing, and never drops it."""

VERSION_TABLE: Final = "graphjobs_schema_version"
"""The version table of graphjobs, separate from the one of a host that uses Alembic too."""

REVISION: Final = "019_event_log_index"
"""The newest revision, which this code needs."""


class Base(DeclarativeBase):
    """The base class of every declared table of graphjobs."""

    metadata = MetaData(
        schema=SCHEMA,
        # PostgreSQL's own default names: a dump then equals that of hand-written SQL.
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
        },
    )
