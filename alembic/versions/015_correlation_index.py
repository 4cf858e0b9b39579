"""Create the index for pages of one correlation id, of jobs that have one.

Why: without it, `GraphJobQuery(correlation_id=...)` would read every job of the tenant.
When: before the deploy.
Revision: 015_correlation_index, after 014_graph_jobs

It is built concurrently, outside of a transaction; the build waits for older transactions and blocks no writer. An
existing index of this name is dropped first, since an interrupted build leaves an invalid one. A valid one is dropped
too, because `--sql` could not render a statement that distinguishes them.
"""

from alembic import op

revision = "015_correlation_index"
down_revision = "014_graph_jobs"
branch_labels = None
depends_on = None

# The build waits for every older transaction of the database, on whatever table: minutes, not the lock time-out.
_WAIT_LONGER = """
DO $wait$
BEGIN
    PERFORM set_config('graphjobs.lock_timeout', current_setting('lock_timeout'), false);
    PERFORM set_config('lock_timeout', '10min', false);
END
$wait$
"""
_WAIT_AS_BEFORE = """
DO $wait$
BEGIN
    PERFORM set_config('lock_timeout', current_setting('graphjobs.lock_timeout'), false);
END
$wait$
"""
_DROP = "DROP INDEX CONCURRENTLY IF EXISTS scheduler.idx_graph_jobs_tenant_correlation"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(_WAIT_LONGER)
        op.execute(_DROP)
        op.execute(
            "CREATE INDEX CONCURRENTLY idx_graph_jobs_tenant_correlation "
            "ON scheduler.graph_jobs (tenant_id, correlation_id, created_at DESC) WHERE correlation_id IS NOT NULL"
        )
        op.execute(_WAIT_AS_BEFORE)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(_WAIT_LONGER)
        op.execute(_DROP)
        op.execute(_WAIT_AS_BEFORE)
