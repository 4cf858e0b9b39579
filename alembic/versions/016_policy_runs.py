"""Create the tables of policy runs and of their events.

Why: they replace the collection of the scheduler.
When: before the deploy.
Revision: 016_policy_runs, after 015_correlation_index

Fields that change are columns; the request is the payload, which never changes, so that no transition writes it again.
The revision only adds, and older code still works. The indexes serve the statements: the key, the run id, pages with
and without a policy, and three small partial indexes of pending and leased runs.
"""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import postgresql

revision = "016_policy_runs"
down_revision = "015_correlation_index"
branch_labels = None
depends_on = None

TABLES = ("policy_runs", "policy_run_events")

# Take ACCESS EXCLUSIVE first: a row that is inserted after the count would be lost silently.
GUARD = """
DO $guard$
DECLARE
    runs bigint;
    events bigint;
BEGIN
    LOCK TABLE scheduler.policy_runs, scheduler.policy_run_events IN ACCESS EXCLUSIVE MODE;
    -- Rows that a policy hides would be counted as absent.
    IF row_security_active('scheduler.policy_runs') OR row_security_active('scheduler.policy_run_events') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'GJ001',
            MESSAGE = 'row-level security hides rows of the tables to drop from this role: '
                || 'downgrade as a superuser or a role with BYPASSRLS, or with -x drop-data=yes';
    END IF;
    SELECT count(*) INTO runs FROM scheduler.policy_runs;
    SELECT count(*) INTO events FROM scheduler.policy_run_events;
    IF runs + events > 0 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'GJ001',
            MESSAGE = 'the downgrade would drop ' || runs || ' rows of scheduler.policy_runs and ' || events
                || ' of scheduler.policy_run_events: keep them first with graphjobs export FOLDER, or with pg_dump '
                || '--data-only --table=scheduler.policy_runs --table=scheduler.policy_run_events, '
                || 'then downgrade with -x drop-data=yes';
    END IF;
END
$guard$
"""

# Every value of graphjobs is in this range; a time that Python cannot represent would make its page unreadable.
_FIRST, _LAST = "'0001-01-02 00:00:00+00'", "'9999-12-30 23:59:59.999999+00'"
_TIMES = (
    "queued_at",
    "available_at",
    "last_attempt_at",
    "submitted_at",
    "completed_at",
    "canceled_at",
    "cancellation_requested_at",
    "lease_expires_at",
    "created_at",
    "updated_at",
)


def _time(name: str, comment: str, *, nullable: bool = True, server_default: sa.TextClause | None = None) -> sa.Column:
    return sa.Column(
        name, sa.DateTime(timezone=True), nullable=nullable, server_default=server_default, comment=comment
    )


def _add_runs() -> None:
    op.create_table(
        "policy_runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False, comment="the caller's name of the run"),
        sa.Column("policy_id", sa.Text(), nullable=False),
        sa.Column("mode", sa.SmallInteger(), nullable=False, comment="0 full, 1 incremental, 2 simulate"),
        sa.Column("priority", sa.SmallInteger(), nullable=False, comment="0 normal, 1 high, 2 emergency"),
        sa.Column(
            "status",
            sa.SmallInteger(),
            nullable=False,
            comment="0 pending, 1 dispatching, 2 submitted, 3 completed, 4 failed, 5 canceled",
        ),
        sa.Column("attempts", sa.Integer(), nullable=False, comment="rises by one with each lease"),
        _time("queued_at", "when it was asked for", nullable=False),
        _time("available_at", "not leased before", nullable=False),
        _time("last_attempt_at", "when it was leased last"),
        sa.Column("last_error", sa.Text(), nullable=True, comment="why the last attempt failed"),
        _time("submitted_at", "when an engine accepted the run"),
        _time("completed_at", "when it completed or failed"),
        sa.Column("lease_owner", sa.Text(), nullable=True, comment="who dispatches it"),
        _time("lease_expires_at", "until when"),
        _time("cancellation_requested_at", "when its end was asked for, if it was"),
        sa.Column("cancellation_reason", sa.Text(), nullable=True),
        _time("canceled_at", "when it was canceled"),
        sa.Column("payload", postgresql.JSONB(), nullable=False, comment="what was asked for; never changes"),
        _time("created_at", "by the clock of who asked", nullable=False, server_default=sa.text("now()")),
        _time("updated_at", "only rises: the version", nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("id", name="policy_runs_pkey"),
        sa.CheckConstraint("mode BETWEEN 0 AND 2", name=op.f("policy_runs_mode_check")),
        sa.CheckConstraint("priority BETWEEN 0 AND 2", name=op.f("policy_runs_priority_check")),
        sa.CheckConstraint("status BETWEEN 0 AND 5", name=op.f("policy_runs_status_check")),
        sa.CheckConstraint("attempts BETWEEN 0 AND 99999", name=op.f("policy_runs_attempts_check")),
        sa.CheckConstraint(
            "(status = 1) = (lease_owner IS NOT NULL) AND (status = 1) = (lease_expires_at IS NOT NULL)",
            name=op.f("policy_runs_lease_check"),
        ),
        sa.CheckConstraint(
            "status <> 0 OR cancellation_requested_at IS NULL", name=op.f("policy_runs_cancellation_check")
        ),
        sa.CheckConstraint(
            " AND ".join(f"{time} BETWEEN {_FIRST} AND {_LAST}" for time in _TIMES),
            name=op.f("policy_runs_times_check"),
        ),
        schema="scheduler",
    )


def _index_runs() -> None:
    # The column order differs from the index of pages, so that the planner never confuses the two. run_id comes first:
    # a lookup by run id and tenant would otherwise read all rows of the tenant.
    tenant = sa.text('tenant_id COLLATE "C"')
    op.create_index("idx_policy_runs_run_id", "policy_runs", ["run_id", tenant], unique=True, schema="scheduler")
    pages = [sa.text("queued_at DESC"), sa.text("id DESC")]
    for name, columns in (
        ("idx_policy_runs_tenant_status", ["tenant_id", "status", "mode", *pages]),
        ("idx_policy_runs_tenant_policy_status", ["tenant_id", "policy_id", "status", "mode", *pages]),
    ):
        op.create_index(name, "policy_runs", columns, schema="scheduler")
    for name, columns, status in (
        ("idx_policy_runs_pending", ["priority", tenant, "available_at"], 0),
        ("idx_policy_runs_depth", ["mode", "priority", tenant, "queued_at"], 0),
        ("idx_policy_runs_leased", ["last_attempt_at"], 1),
    ):
        op.create_index(
            name, "policy_runs", columns, schema="scheduler", postgresql_where=sa.text(f"status = {status}")
        )


def _add_events() -> None:
    op.create_table(
        "policy_run_events",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False, comment="orders one run's log"),
        sa.Column("job_id", sa.Uuid(), nullable=False, comment="the run's id"),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False, comment="as the move left it"),
        sa.Column("payload", postgresql.JSONB(), nullable=False, comment="from, to, attempts, transition id, actor"),
        _time("created_at", "the version its move gave the run", nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("id", name="policy_run_events_pkey"),
        sa.ForeignKeyConstraint(
            ["job_id"], ["scheduler.policy_runs.id"], name="policy_run_events_job_id_fkey", ondelete="CASCADE"
        ),
        schema="scheduler",
    )
    op.create_index(
        "idx_policy_run_events_job", "policy_run_events", ["job_id", sa.text("created_at DESC")], schema="scheduler"
    )


def upgrade() -> None:
    _add_runs()
    _index_runs()
    _add_events()


def downgrade() -> None:
    if context.get_x_argument(as_dictionary=True).get("drop-data") != "yes":
        op.execute(GUARD)
    op.drop_table("policy_run_events", schema="scheduler")
    op.drop_table("policy_runs", schema="scheduler")
