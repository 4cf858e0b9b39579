"""The tables of the backfill: the only description of them outside the revisions."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, Index, LargeBinary, Text, Uuid, func, text
from sqlalchemy.orm import Mapped, mapped_column

from graphjobs.database.schema import Base


class BackfillCheckpointRow(Base):
    """How far one part of a source has been read, and what came of it; written with what it tells of."""

    __tablename__ = "backfill_checkpoints"

    fingerprint: Mapped[str] = mapped_column(Text, primary_key=True, comment="of what is read, and how it is read")
    part: Mapped[str] = mapped_column(Text, comment="its name: a file, or a collection of a server")
    collection: Mapped[str] = mapped_column(Text)
    position: Mapped[str] = mapped_column(Text, comment="where reading goes on")
    counts: Mapped[str] = mapped_column(Text, comment="what came of it so far, as JSON")
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True), comment="when its end was reached")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), comment="when it was begun, or begun anew"
    )
    first_begun_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True),
        server_default=func.now(),
        comment="what a service writes is later; what a backfill writes tells an earlier version",
    )
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class BackfillQuarantineRow(Base):
    """A document that cannot come, whole, and why."""

    __tablename__ = "backfill_quarantine"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True, comment="of the content, always the same")
    collection: Mapped[str] = mapped_column(Text)
    document_id: Mapped[UUID | None] = mapped_column(Uuid, comment="of tenant and _id, by which others answer it")
    place: Mapped[str] = mapped_column(Text, comment="where it was found")
    field: Mapped[str] = mapped_column(Text, comment="what is at fault; empty where all is")
    reason: Mapped[str] = mapped_column(Text, comment="one sentence")
    document: Mapped[str | None] = mapped_column(Text, comment="the whole of it, as Extended JSON")
    raw: Mapped[bytes | None] = mapped_column(LargeBinary, comment="its bytes, where JSON cannot hold it")
    settled_at: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True), comment="when it came mended, was given up, or another one took its place"
    )
    replaced_by: Mapped[UUID | None] = mapped_column(
        Uuid, comment="the entry that took its place, as long as that one waits"
    )
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), comment="when it was found last"
    )

    __table_args__ = (
        CheckConstraint("(document IS NULL) <> (raw IS NULL)", name="content"),
        Index("idx_backfill_quarantine_document", "document_id", postgresql_where=text("settled_at IS NULL")),
        Index("idx_backfill_quarantine_replaced", "replaced_by", postgresql_where=text("replaced_by IS NOT NULL")),
    )
