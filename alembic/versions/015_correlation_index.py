"""The index that pages of one correlation id are read by, for jobs that have one.

Why: without it, `GraphJobQuery(correlation_id=...)` would read every job of the tenant.
When: before the deploy.
Revision: 015_correlation_index, after 014_graph_jobs

It is built concurrently, so it cannot run within a transaction, and it waits for transactions that are older than
itself, blocking nobody. An index of its name that a build left invalid is dropped first; so is a valid one, for
telling them apart would take a statement that `--sql` cannot render.
"""

from alembic import op

revision = "015_correlation_index"
down_revision = "014_graph_jobs"
branch_labels = None
depends_on = None

_DROP = "DROP INDEX CONCURRENTLY IF EXISTS scheduler.idx_graph_jobs_tenant_correlation"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(_DROP)
        op.execute(
            "CREATE INDEX CONCURRENTLY idx_graph_jobs_tenant_correlation "
            "ON scheduler.graph_jobs (tenant_id, correlation_id, created_at DESC) WHERE correlation_id IS NOT NULL"
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(_DROP)
