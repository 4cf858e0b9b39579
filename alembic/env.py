"""What `alembic` runs before the revisions; all it does stands in graphjobs.database.environment."""

import graphjobs.backfill.tables  # noqa: F401  # declared there, and imported by no storage
from graphjobs.database.environment import run_environment
from graphjobs.jobs.tables import Base

run_environment(Base.metadata)
