"""Create the indexes that read the log of one job from any event on.

Why: the index of 014 has the time of an event, and not its id, which is the order of a log: each page read and sorted
the whole log, 350 pages for 10,000 events.
When: before the deploy.
Revision: 019_event_log_index, after 018_transition_index

They are built concurrently, as those of 018. Of policy runs, the new index replaces that of the times, which nothing
else needs; of graph jobs, the index of 014 stays. Code of 018 works with either.
"""

from alembic import op

revision = "019_event_log_index"
down_revision = "018_transition_index"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for table in ("graph_job_events", "policy_run_events"):
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS scheduler.idx_{table}_log")
            op.execute(f"CREATE INDEX CONCURRENTLY idx_{table}_log ON scheduler.{table} (job_id, id)")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS scheduler.idx_policy_run_events_job")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS scheduler.idx_policy_run_events_job")
        op.execute(
            "CREATE INDEX CONCURRENTLY idx_policy_run_events_job "
            "ON scheduler.policy_run_events (job_id, created_at DESC)"
        )
        for table in ("graph_job_events", "policy_run_events"):
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS scheduler.idx_{table}_log")
