"""What the tables hold before anything is timed: jobs as a scheduler would have them, and fresh statistics."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from graphjobs.database.schema import SCHEMA
from graphjobs.jobs.models import GraphBuildJob
from graphjobs.jobs.status import GraphJobStatus
from graphjobs.jobs.tables import GraphJobRow

Record: TypeAlias = tuple[UUID, str, int, int, str, datetime, datetime, str | None]

_COLUMNS: Final = ("id", "tenant_id", "type", "status", "payload", "created_at", "updated_at", "correlation_id")
_TABLE: Final = GraphJobRow.__tablename__
_FIRST: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
_BETWEEN: Final = timedelta(milliseconds=2_741)
_STATUSES: Final = (
    *[GraphJobStatus.QUEUED] * 2,
    GraphJobStatus.RUNNING,
    *[GraphJobStatus.COMPLETED] * 5,
    GraphJobStatus.FAILED,
    GraphJobStatus.CANCELED,
)
"""A tenant's jobs go through these in turn."""


def queued_job(tenant_id: str, number: int, *, created_at: datetime | None = None) -> GraphBuildJob:
    """A queued build job as a scheduler makes it, with what such jobs carry filled in."""
    return GraphBuildJob(
        tenant_id=tenant_id,
        sbom_id=f"registry.example.org/payments/checkout-{number % 997}",
        sbom_version_id=f"registry.example.org/payments/checkout-{number % 997}@2026.1.{number}",
        sbom_digest=f"sha256:{number:064x}",
        trigger="sbom-version",
        correlation_id=f"upload-{number:012d}",
        created_at=created_at or _FIRST + number * _BETWEEN,
        metadata={
            "branch": "main",
            "commit": f"{number:040x}",
            "requestedBy": "ci@payments.example.org",
            "scanner": "syft 1.38.0",
        },
    )


def job_of(status: GraphJobStatus, tenant_id: str, number: int) -> GraphBuildJob:
    """A build job that was moved to a status the way a worker moves it."""
    job = queued_job(tenant_id, number)
    started_at = job.created_at + timedelta(seconds=3)
    ended_at = started_at + timedelta(seconds=42)
    match status:
        case GraphJobStatus.QUEUED:
            return job
        case GraphJobStatus.CANCELED:
            return job.cancel(at=started_at)
    running = job.start(at=started_at).renew(cartographer_job_id=f"cartographer-{number:08d}")
    match status:
        case GraphJobStatus.COMPLETED:
            return running.complete(at=ended_at, graph_snapshot_id=f"snapshot-{number:012d}")
        case GraphJobStatus.FAILED:
            return running.fail(at=ended_at, error="TimeoutError: the registry did not answer within 30 seconds")
    return running


def jobs_of(tenant_id: str, count: int) -> list[GraphBuildJob]:
    """A tenant's build jobs, all statuses mixed; the same each time but for their ids."""
    return [job_of(_STATUSES[number % len(_STATUSES)], tenant_id, number) for number in range(count)]


async def store(url: str, jobs: Iterable[GraphBuildJob]) -> None:
    """Copies jobs into the table, and has it analysed."""
    await _copied(url, map(_record, jobs))


async def store_many(url: str, tenant_id: str, count: int) -> None:
    """Copies a tenant's build jobs into the table, too many to make a value of each, and has it analysed.

    One real job of each status is the pattern: only id and creation time differ, in the columns and in the payload.
    """
    await _copied(url, _patterned(tenant_id, count))


def _patterned(tenant_id: str, count: int) -> Iterator[Record]:
    patterns: dict[GraphJobStatus, tuple[GraphBuildJob, tuple[str, str, str]]] = {}
    for number, status in enumerate(GraphJobStatus):
        job = job_of(status, tenant_id, number)
        before, found, rest = job.to_json().partition(str(job.id))
        between, found_too, after = rest.partition(_as_text(job.created_at))
        if not (found and found_too):
            raise ValueError("a payload should hold the id, and after it the creation time, as text")
        patterns[status] = (job, (before, between, after))
    for number in range(count):
        job, (before, between, after) = patterns[_STATUSES[number % len(_STATUSES)]]
        job_id, created_at = uuid7(), _FIRST + number * _BETWEEN
        document = f"{before}{job_id}{between}{_as_text(created_at)}{after}"
        code, correlation_id = job.status.code, job.correlation_id
        yield job_id, tenant_id, job.type.code, code, document, created_at, created_at, correlation_id


def _as_text(time: datetime) -> str:
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _record(job: GraphBuildJob) -> Record:
    code = job.status.code
    times = (job.created_at, job.created_at)
    return job.id, job.tenant_id, job.type.code, code, job.to_json(), *times, job.correlation_id


async def _copied(url: str, records: Iterator[Record]) -> None:
    connection = await asyncpg.connect(url)
    try:
        # Autovacuum would come in the middle of somebody's slice; what it does is done here and between operations.
        await connection.execute(f"ALTER TABLE {SCHEMA}.{_TABLE} SET (autovacuum_enabled = false)")
        await connection.copy_records_to_table(_TABLE, records=records, columns=_COLUMNS, schema_name=SCHEMA)
        await _settle(connection)
    finally:
        await connection.close()


async def settled(url: str) -> None:
    """Brings the table to rest: dead rows swept, statistics fresh, and no checkpoint due."""
    connection = await asyncpg.connect(url)
    try:
        await _settle(connection)
    finally:
        await connection.close()


async def _settle(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await connection.execute(f"VACUUM (ANALYZE) {SCHEMA}.{_TABLE}")
    try:
        await connection.execute("CHECKPOINT")
    except asyncpg.InsufficientPrivilegeError:
        return  # a named server may keep that to itself
