"""The environment of `alembic`; the code is in graphjobs.database.migrations.alembic_env."""

# Import each module with tables: `check` and `revision --autogenerate` compare only declared tables.
import graphjobs.backfill.tables
import graphjobs.graph_jobs.tables
import graphjobs.policy_runs.tables  # noqa: F401
from graphjobs.database.migrations.alembic_env import run_environment
from graphjobs.database.schema import Base

run_environment(Base.metadata)
