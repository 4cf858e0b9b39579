"""What `alembic` runs before the revisions; all it does stands in graphjobs.database.environment."""

from graphjobs.database.environment import run_environment
from graphjobs.jobs.tables import Base

run_environment(Base.metadata)
