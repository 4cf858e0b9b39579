"""The tables of graph jobs. Apart from the revisions, which reproduce migration 014, they are declared only here."""

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from graphjobs.database.schema import SCHEMA, Base


class GraphJobRow(Base):
    """The row of a graph job. The columns are authoritative, and the payload never disagrees with them."""

    __tablename__ = "graph_jobs"

    id: Mapped[UUID] = mapped_column(sa.Uuid, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(sa.Text)
    type: Mapped[int] = mapped_column(sa.SmallInteger)
    status: Mapped[int] = mapped_column(sa.SmallInteger)
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    updated_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    correlation_id: Mapped[str | None] = mapped_column(sa.Text)

    __table_args__ = (
        sa.Index("idx_graph_jobs_tenant_status", "tenant_id", "status", created_at.desc()),
        sa.Index("idx_graph_jobs_tenant_type_status", "tenant_id", "type", "status", created_at.desc()),
        sa.Index(
            "idx_graph_jobs_tenant_correlation",
            "tenant_id",
            "correlation_id",
            created_at.desc(),
            postgresql_where=correlation_id.is_not(None),
        ),
    )


class GraphJobEventRow(Base):
    """The row of one event. Its id is assigned under the lock of the job's row, so that ids order the log."""

    __tablename__ = "graph_job_events"

    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=True)
    job_id: Mapped[UUID] = mapped_column(sa.Uuid, sa.ForeignKey(f"{SCHEMA}.graph_jobs.id", ondelete="CASCADE"))
    tenant_id: Mapped[str] = mapped_column(sa.Text)
    status: Mapped[int] = mapped_column(sa.SmallInteger)
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())

    __table_args__ = (
        sa.Index("idx_graph_job_events_job", "job_id", created_at.desc()),
        sa.Index("idx_graph_job_events_log", "job_id", "id"),
        sa.Index(
            "idx_graph_job_events_transition",
            sa.text("(payload ->> 'transitionId')"),
            # An entry has a bounded size, whatever a host appends.
            postgresql_where=sa.text("length(payload ->> 'transitionId') = 36"),
        ),
    )
