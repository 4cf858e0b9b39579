"""Declaration of the tables of the backfill, the only one outside of the revisions."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, Index, LargeBinary, Text, Uuid, func, text
from sqlalchemy.orm import Mapped, mapped_column

from graphjobs.database.schema import Base


class BackfillCheckpointRow(Base):
    """The progress of one part of a source. It commits with the rows that it counts."""

    __tablename__ = "backfill_checkpoints"

    fingerprint: Mapped[str] = mapped_column(Text, primary_key=True, comment="hash of the part and of the options")
    part: Mapped[str] = mapped_column(Text, comment="a file name, or a collection of a server")
    collection: Mapped[str] = mapped_column(Text)
    position: Mapped[str] = mapped_column(Text, comment="offset of the next record, as JSON")
    counts: Mapped[str] = mapped_column(Text, comment="counts of documents so far, as JSON")
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True), comment="end of the part reached")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), comment="started, or started again"
    )
    first_started_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True),
        server_default=func.now(),
        comment="versions of a backfill are earlier, versions of services later",
    )
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class BackfillQuarantineRow(Base):
    """A rejected document, complete, with the reason."""

    __tablename__ = "backfill_quarantine"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True, comment="hash of the content")
    collection: Mapped[str] = mapped_column(Text)
    document_id: Mapped[UUID | None] = mapped_column(Uuid, comment="hash of tenant and _id")
    location: Mapped[str] = mapped_column(Text, comment="part and number of the record")
    field: Mapped[str] = mapped_column(Text, comment="the invalid field; empty if there is no document")
    reason: Mapped[str] = mapped_column(Text, comment="one sentence")
    document: Mapped[str | None] = mapped_column(Text, comment="the whole document as Extended JSON")
    raw: Mapped[bytes | None] = mapped_column(LargeBinary, comment="its bytes, if JSON has no form for it")
    resolved_at: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True), comment="imported after a repair, discarded, or superseded"
    )
    superseded_by: Mapped[UUID | None] = mapped_column(Uuid, comment="the newer entry, while that one is pending")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    last_seen_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), comment="last read from a source"
    )

    __table_args__ = (
        CheckConstraint("(document IS NULL) <> (raw IS NULL)", name="content"),
        Index("idx_backfill_quarantine_document", "document_id", postgresql_where=text("resolved_at IS NULL")),
        Index(
            "idx_backfill_quarantine_superseded", "superseded_by", postgresql_where=text("superseded_by IS NOT NULL")
        ),
    )
