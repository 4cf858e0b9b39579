"""What `alembic` runs before the revisions; all it does stands in graphjobs.database.migrations.alembic_env."""

# Each module that declares tables: `check` and `revision --autogenerate` see no drift of a table that is not declared.
import graphjobs.backfill.tables
import graphjobs.graph_jobs.tables
import graphjobs.policy_runs.tables  # noqa: F401
from graphjobs.database.migrations.alembic_env import run_environment
from graphjobs.database.schema import Base

run_environment(Base.metadata)
