"""Checkpoints and quarantine of the backfill from MongoDB.

Why: an interrupted backfill resumes at its checkpoint, and no document is dropped silently.
When: before the backfill.
Revision: 017_backfill, after 016_policy_runs

No other code reads these tables. Documents are text of Extended JSON, not JSONB: JSONB has no NUL and no NaN.
"""

import sqlalchemy as sa
from alembic import context, op

revision = "017_backfill"
down_revision = "016_policy_runs"
branch_labels = None
depends_on = None

TABLES = ("backfill_checkpoints", "backfill_quarantine")

# ACCESS EXCLUSIVE first: a row that is inserted after the count would be lost. Checkpoints are no loss.
GUARD = """
DO $guard$
DECLARE
    documents bigint;
BEGIN
    LOCK TABLE scheduler.backfill_quarantine IN ACCESS EXCLUSIVE MODE;
    -- Rows that a policy hides would be counted as absent.
    IF row_security_active('scheduler.backfill_quarantine') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'GJ001',
            MESSAGE = 'row-level security hides rows of the tables to drop from this role: '
                || 'downgrade as a superuser or a role with BYPASSRLS, or with -x drop-data=yes';
    END IF;
    SELECT count(*) INTO documents FROM scheduler.backfill_quarantine WHERE resolved_at IS NULL;
    IF documents > 0 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'GJ001',
            MESSAGE = 'the downgrade would drop ' || documents || ' pending rows of scheduler.backfill_quarantine: '
                || 'write them to files with graphjobs quarantine write FOLDER, then downgrade with -x drop-data=yes';
    END IF;
END
$guard$
"""


def upgrade() -> None:
    def required(name: str, comment: str | None = None) -> sa.Column[str]:
        return sa.Column(name, sa.Text(), nullable=False, comment=comment)

    def defaults_to_now(name: str, comment: str | None = None) -> sa.Column[sa.DateTime]:
        now = sa.text("now()")
        return sa.Column(name, sa.DateTime(timezone=True), server_default=now, nullable=False, comment=comment)

    def optional(name: str, kind: "sa.types.TypeEngine[object]", comment: str) -> sa.Column[object]:
        return sa.Column(name, kind, nullable=True, comment=comment)

    time = sa.DateTime(timezone=True)
    op.create_table(
        "backfill_checkpoints",
        required("fingerprint", "hash of the part and of the options"),
        required("part", "a file name, or a collection of a server"),
        required("collection"),
        required("position", "offset of the next record, as JSON"),
        required("counts", "counts of documents so far, as JSON"),
        optional("finished_at", time, "end of the part reached"),
        defaults_to_now("created_at", "started, or started again"),
        defaults_to_now("first_started_at", "versions of a backfill are earlier, versions of services later"),
        defaults_to_now("updated_at"),
        sa.PrimaryKeyConstraint("fingerprint", name="backfill_checkpoints_pkey"),
        schema="scheduler",
    )
    op.create_table(
        "backfill_quarantine",
        sa.Column("id", sa.Uuid(), nullable=False, comment="hash of the content"),
        required("collection"),
        optional("document_id", sa.Uuid(), "hash of tenant and _id"),
        required("location", "part and number of the record"),
        required("field", "the invalid field; empty if there is no document"),
        required("reason", "one sentence"),
        optional("document", sa.Text(), "the whole document as Extended JSON"),
        optional("raw", sa.LargeBinary(), "its bytes, if JSON has no form for it"),
        optional("resolved_at", time, "imported after a repair, discarded, or superseded"),
        optional("superseded_by", sa.Uuid(), "the newer entry, while that one is pending"),
        defaults_to_now("created_at"),
        defaults_to_now("last_seen_at", "last read from a source"),
        sa.PrimaryKeyConstraint("id", name="backfill_quarantine_pkey"),
        sa.CheckConstraint("(document IS NULL) <> (raw IS NULL)", name=op.f("backfill_quarantine_content_check")),
        schema="scheduler",
    )
    for name, column, where in (
        ("document", "document_id", "resolved_at IS NULL"),
        ("superseded", "superseded_by", "superseded_by IS NOT NULL"),
    ):
        op.create_index(
            f"idx_backfill_quarantine_{name}",
            "backfill_quarantine",
            [column],
            schema="scheduler",
            postgresql_where=sa.text(where),
        )


def downgrade() -> None:
    if context.get_x_argument(as_dictionary=True).get("drop-data") != "yes":
        op.execute(GUARD)
    op.drop_table("backfill_quarantine", schema="scheduler")
    op.drop_table("backfill_checkpoints", schema="scheduler")
