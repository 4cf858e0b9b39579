"""The tables of policy runs: the only description of them outside the revisions."""

from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from graphjobs.database.schema import SCHEMA, Base

_FIRST, _LAST = "'0001-01-02 00:00:00+00'", "'9999-12-30 23:59:59.999999+00'"
_PAGES: Final[tuple[sa.ColumnElement[Any], ...]] = (sa.desc("queued_at"), sa.desc("id"))
# Another collation, so that the planner never takes an index of pages in place of one of these. It is written as an
# operator class: reflection does not see a collation, and `alembic check` would report an expression as drift.
_C_COLLATION = {"tenant_id": 'COLLATE "C"'}
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


class PolicyRunRow(Base):
    """A policy run as it is stored: state is in columns, and the request is in the payload, which never changes."""

    __tablename__ = "policy_runs"

    id: Mapped[UUID] = mapped_column(sa.Uuid, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(sa.Text)
    run_id: Mapped[str] = mapped_column(sa.Text, comment="the caller's name of the run")
    policy_id: Mapped[str] = mapped_column(sa.Text)
    mode: Mapped[int] = mapped_column(sa.SmallInteger, comment="0 full, 1 incremental, 2 simulate")
    priority: Mapped[int] = mapped_column(sa.SmallInteger, comment="0 normal, 1 high, 2 emergency")
    status: Mapped[int] = mapped_column(
        sa.SmallInteger, comment="0 pending, 1 dispatching, 2 submitted, 3 completed, 4 failed, 5 canceled"
    )
    attempts: Mapped[int] = mapped_column(sa.Integer, comment="rises by one with each lease")
    queued_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), comment="when it was asked for")
    available_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), comment="not leased before")
    last_attempt_at: Mapped[datetime | None] = mapped_column(
        sa.DateTime(timezone=True), comment="when it was leased last"
    )
    last_error: Mapped[str | None] = mapped_column(sa.Text, comment="why the last attempt failed")
    submitted_at: Mapped[datetime | None] = mapped_column(
        sa.DateTime(timezone=True), comment="when an engine accepted the run"
    )
    completed_at: Mapped[datetime | None] = mapped_column(
        sa.DateTime(timezone=True), comment="when it completed or failed"
    )
    lease_owner: Mapped[str | None] = mapped_column(sa.Text, comment="who dispatches it")
    lease_expires_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True), comment="until when")
    cancellation_requested_at: Mapped[datetime | None] = mapped_column(
        sa.DateTime(timezone=True), comment="when its end was asked for, if it was"
    )
    cancellation_reason: Mapped[str | None] = mapped_column(sa.Text)
    canceled_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True), comment="when it was canceled")
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB, comment="what was asked for; never changes")
    created_at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now(), comment="by the clock of who asked"
    )
    updated_at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now(), comment="only rises: the version"
    )

    __table_args__ = (
        sa.CheckConstraint("mode BETWEEN 0 AND 2", name="mode"),
        sa.CheckConstraint("priority BETWEEN 0 AND 2", name="priority"),
        sa.CheckConstraint("status BETWEEN 0 AND 5", name="status"),
        sa.CheckConstraint("attempts BETWEEN 0 AND 99999", name="attempts"),
        sa.CheckConstraint(
            "(status = 1) = (lease_owner IS NOT NULL) AND (status = 1) = (lease_expires_at IS NOT NULL)", name="lease"
        ),
        sa.CheckConstraint("status <> 0 OR cancellation_requested_at IS NULL", name="cancellation"),
        sa.CheckConstraint(" AND ".join(f"{time} BETWEEN {_FIRST} AND {_LAST}" for time in _TIMES), name="times"),
        sa.Index("idx_policy_runs_run_id", "run_id", "tenant_id", unique=True, postgresql_ops=_C_COLLATION),
        sa.Index("idx_policy_runs_tenant_status", "tenant_id", "status", "mode", *_PAGES),
        sa.Index(
            "idx_policy_runs_tenant_policy_status",
            "tenant_id",
            "policy_id",
            "status",
            "mode",
            *_PAGES,
        ),
        sa.Index(
            "idx_policy_runs_pending",
            "priority",
            "tenant_id",
            "available_at",
            postgresql_where=sa.text("status = 0"),
            postgresql_ops=_C_COLLATION,
        ),
        sa.Index(
            "idx_policy_runs_depth",
            "mode",
            "priority",
            "tenant_id",
            "queued_at",
            postgresql_where=sa.text("status = 0"),
            postgresql_ops=_C_COLLATION,
        ),
        # Not by the end of the lease: each heartbeat would write all indexes of the row.
        sa.Index("idx_policy_runs_leased", "last_attempt_at", postgresql_where=sa.text("status = 1")),
    )


class PolicyRunEventRow(Base):
    """One entry of a run's log as it is stored. Its id is assigned under the run's row lock, so it orders that log."""

    __tablename__ = "policy_run_events"

    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=True, comment="orders one run's log")
    job_id: Mapped[UUID] = mapped_column(
        sa.Uuid, sa.ForeignKey(f"{SCHEMA}.policy_runs.id", ondelete="CASCADE"), comment="the run's id"
    )
    tenant_id: Mapped[str] = mapped_column(sa.Text)
    status: Mapped[int] = mapped_column(sa.SmallInteger, comment="as the move left it")
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB, comment="from, to, attempts, transition id, actor")
    created_at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now(), comment="the version its move gave the run"
    )

    __table_args__ = (
        sa.Index("idx_policy_run_events_log", "job_id", "id"),
        sa.Index(
            "idx_policy_run_events_transition",
            sa.text("(payload ->> 'transitionId')"),
            # An entry has a bounded size, whatever a host appends.
            postgresql_where=sa.text("length(payload ->> 'transitionId') = 36"),
        ),
    )
