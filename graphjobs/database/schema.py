"""The schema `scheduler`: the metadata all tables share, PostgreSQL's own constraint names, and our revision."""

from typing import Final

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

SCHEMA: Final = "scheduler"
"""Earlier migrations of the host own it: we create it only where it is missing, and never drop it."""

VERSION_TABLE: Final = "graphjobs_schema_version"
"""Alembic's table of ours, so that a host's own Alembic does not collide with it."""

REVISION: Final = "017_backfill"
"""The revision this code needs: the newest one."""


class Base(DeclarativeBase):
    """What every declared table of graphjobs derives from."""

    metadata = MetaData(
        schema=SCHEMA,
        # What PostgreSQL itself would call them: a dump of ours then equals one of hand-written SQL.
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s_check",
        },
    )
