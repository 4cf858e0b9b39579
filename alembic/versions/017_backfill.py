"""Where the move from MongoDB stands, and what of it cannot come.

Why: a backfill that was ended goes on where it was, and no document is dropped silently.
When: before the backfill.
Revision: 017_backfill, after 016_policy_runs

Nothing else reads these tables. Documents are kept as text of Extended JSON, not as JSONB: it holds what JSONB cannot,
as NUL and numbers that are none.
"""

import sqlalchemy as sa
from alembic import context, op

revision = "017_backfill"
down_revision = "016_policy_runs"
branch_labels = None
depends_on = None

# ACCESS EXCLUSIVE first: a row that is inserted after the count would be lost unseen. Checkpoints are no loss.
GUARD = """
DO $guard$
DECLARE
    documents bigint;
BEGIN
    LOCK TABLE scheduler.backfill_quarantine IN ACCESS EXCLUSIVE MODE;
    SELECT count(*) INTO documents FROM scheduler.backfill_quarantine WHERE settled_at IS NULL;
    IF documents > 0 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'GJ001',
            MESSAGE = 'the downgrade would drop ' || documents || ' rows of scheduler.backfill_quarantine that wait: '
                || 'keep them first with graphjobs quarantine write FOLDER, then downgrade with -x drop-data=yes';
    END IF;
END
$guard$
"""


def upgrade() -> None:
    op.create_table(
        "backfill_checkpoints",
        sa.Column("fingerprint", sa.Text(), nullable=False, comment="of what is read, and how it is read"),
        sa.Column("part", sa.Text(), nullable=False, comment="its name: a file, or a collection of a server"),
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("position", sa.Text(), nullable=False, comment="where reading goes on"),
        sa.Column("counts", sa.Text(), nullable=False, comment="what came of it so far, as JSON"),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True, comment="when its end was reached"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was begun, or begun anew",
        ),
        sa.Column(
            "first_begun_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="what a service writes is later; what a backfill writes tells an earlier version",
        ),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="backfill_checkpoints_pkey"),
        schema="scheduler",
    )
    op.create_table(
        "backfill_quarantine",
        sa.Column("id", sa.Uuid(), nullable=False, comment="of the content, always the same"),
        sa.Column("collection", sa.Text(), nullable=False),
        sa.Column("document_id", sa.Uuid(), nullable=True, comment="of tenant and _id, by which others answer it"),
        sa.Column("place", sa.Text(), nullable=False, comment="where it was found"),
        sa.Column("field", sa.Text(), nullable=False, comment="what is at fault; empty where all is"),
        sa.Column("reason", sa.Text(), nullable=False, comment="one sentence"),
        sa.Column("document", sa.Text(), nullable=True, comment="the whole of it, as Extended JSON"),
        sa.Column("raw", sa.LargeBinary(), nullable=True, comment="its bytes, where JSON cannot hold it"),
        sa.Column(
            "settled_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when it came mended, was given up, or another one took its place",
        ),
        sa.Column(
            "replaced_by", sa.Uuid(), nullable=True, comment="the entry that took its place, as long as that one waits"
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "seen_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when it was found last",
        ),
        sa.PrimaryKeyConstraint("id", name="backfill_quarantine_pkey"),
        sa.CheckConstraint("(document IS NULL) <> (raw IS NULL)", name=op.f("backfill_quarantine_content_check")),
        schema="scheduler",
    )
    op.create_index(
        "idx_backfill_quarantine_document",
        "backfill_quarantine",
        ["document_id"],
        schema="scheduler",
        postgresql_where=sa.text("settled_at IS NULL"),
    )
    op.create_index(
        "idx_backfill_quarantine_replaced",
        "backfill_quarantine",
        ["replaced_by"],
        schema="scheduler",
        postgresql_where=sa.text("replaced_by IS NOT NULL"),
    )


def downgrade() -> None:
    if context.get_x_argument(as_dictionary=True).get("drop-data") != "yes":
        op.execute(GUARD)
    op.drop_table("backfill_quarantine", schema="scheduler")
    op.drop_table("backfill_checkpoints", schema="scheduler")
