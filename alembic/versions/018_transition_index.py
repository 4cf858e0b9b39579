"""Create the indexes that find the events of one transition id.

Why: a call with a lost answer looks for its transition id; without the indexes it would read the log of a whole job,
or all that runs.
When: before the deploy.
Revision: 018_transition_index, after 017_backfill

They are built concurrently, as that of 015: outside of a transaction, without blocking a writer, after an invalid one
of an interrupted build is dropped. Only events with a text of the length of a UUID have an entry: an event that a host
appends may have none, or any other, and an entry has a bounded size. Code of 017 does not use them.
"""

from alembic import op

revision = "018_transition_index"
down_revision = "017_backfill"
branch_labels = None
depends_on = None

_TABLES = ("graph_job_events", "policy_run_events")


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for table in _TABLES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS scheduler.idx_{table}_transition")
            op.execute(
                f"CREATE INDEX CONCURRENTLY idx_{table}_transition ON scheduler.{table} ((payload ->> 'transitionId')) "
                "WHERE length(payload ->> 'transitionId') = 36"
            )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for table in _TABLES:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS scheduler.idx_{table}_transition")
