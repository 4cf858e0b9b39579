"""Create the tables of graph jobs and of their events, as migration 014 of the scheduler does.

Why: they replace the collections of the scheduler.
When: before the deploy.
Source: the plan's migration 014; a dump of these tables equals that of its SQL. Later revisions only add.
"""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import postgresql

revision = "014_graph_jobs"
down_revision = None
branch_labels = None
depends_on = None

TABLES = ("graph_jobs", "graph_job_events")

# Take ACCESS EXCLUSIVE first: a row that is inserted after the count would be lost silently.
GUARD = """
DO $guard$
DECLARE
    jobs bigint;
    events bigint;
BEGIN
    LOCK TABLE scheduler.graph_jobs, scheduler.graph_job_events IN ACCESS EXCLUSIVE MODE;
    -- Rows that a policy hides would be counted as absent.
    IF row_security_active('scheduler.graph_jobs') OR row_security_active('scheduler.graph_job_events') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'GJ001',
            MESSAGE = 'row-level security hides rows of the tables to drop from this role: '
                || 'downgrade as a superuser or a role with BYPASSRLS, or with -x drop-data=yes';
    END IF;
    SELECT count(*) INTO jobs FROM scheduler.graph_jobs;
    SELECT count(*) INTO events FROM scheduler.graph_job_events;
    IF jobs + events > 0 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'GJ001',
            MESSAGE = 'the downgrade would drop ' || jobs || ' rows of scheduler.graph_jobs and ' || events
                || ' of scheduler.graph_job_events: keep them first with graphjobs export FOLDER, or with pg_dump '
                || '--data-only --table=scheduler.graph_jobs --table=scheduler.graph_job_events, '
                || 'then downgrade with -x drop-data=yes';
    END IF;
END
$guard$
"""


def upgrade() -> None:
    op.create_table(
        "graph_jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("type", sa.SmallInteger(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("payload", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("correlation_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="graph_jobs_pkey"),
        schema="scheduler",
    )
    op.create_index(
        "idx_graph_jobs_tenant_status",
        "graph_jobs",
        ["tenant_id", "status", sa.text("created_at DESC")],
        schema="scheduler",
    )
    op.create_index(
        "idx_graph_jobs_tenant_type_status",
        "graph_jobs",
        ["tenant_id", "type", "status", sa.text("created_at DESC")],
        schema="scheduler",
    )
    op.create_table(
        "graph_job_events",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("payload", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="graph_job_events_pkey"),
        sa.ForeignKeyConstraint(
            ["job_id"], ["scheduler.graph_jobs.id"], name="graph_job_events_job_id_fkey", ondelete="CASCADE"
        ),
        schema="scheduler",
    )
    op.create_index(
        "idx_graph_job_events_job",
        "graph_job_events",
        ["job_id", sa.text("created_at DESC")],
        schema="scheduler",
    )


def downgrade() -> None:
    if context.get_x_argument(as_dictionary=True).get("drop-data") != "yes":
        op.execute(GUARD)
    op.drop_table("graph_job_events", schema="scheduler")
    op.drop_table("graph_jobs", schema="scheduler")
