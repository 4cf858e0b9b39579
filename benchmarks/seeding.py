"""Seed the table of jobs with realistic jobs, and bring the tables to rest before a measurement."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Self, TypeAlias
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from graphjobs.database.schema import SCHEMA
from graphjobs.graph_jobs.models import AnyJob, GraphBuildJob, GraphOverlayJob
from graphjobs.graph_jobs.status import GraphJobStatus
from graphjobs.graph_jobs.tables import GraphJobEventRow, GraphJobRow
from graphjobs.policy_runs.tables import PolicyRunEventRow, PolicyRunRow

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Record: TypeAlias = tuple[UUID, str, int, int, str, datetime, datetime, str | None]

_COLUMNS: Final = ("id", "tenant_id", "type", "status", "payload", "created_at", "updated_at", "correlation_id")
_TABLE: Final = GraphJobRow.__tablename__
_ALL: Final = tuple(
    f"{SCHEMA}.{row.__tablename__}" for row in (GraphJobRow, GraphJobEventRow, PolicyRunRow, PolicyRunEventRow)
)
_FIRST: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
_BETWEEN: Final = timedelta(milliseconds=2_741)
_STATUSES: Final = (
    *[GraphJobStatus.QUEUED] * 2,
    GraphJobStatus.RUNNING,
    *[GraphJobStatus.COMPLETED] * 5,
    GraphJobStatus.FAILED,
    GraphJobStatus.CANCELED,
)
"""A tenant's jobs have these statuses in turn."""

SHARED_CORRELATION: Final = "backfill-of-everything"
"""The correlation id of many jobs of `store_mixed`."""

# Coprime with the number of statuses, so that overlays and jobs of the shared correlation id have every status.
_OVERLAY_EACH: Final = 13
_SHARED_EACH: Final = 11


def creation_time(number: int) -> datetime:
    """Return the creation time of a job by its number."""
    return _FIRST + number * _BETWEEN


def _correlation_of(number: int) -> str:
    return f"upload-{number:012d}"


def queued_job(tenant_id: str, number: int, *, created_at: datetime | None = None) -> GraphBuildJob:
    """Build a queued build job with the typical fields of a scheduler."""
    return GraphBuildJob(
        tenant_id=tenant_id,
        sbom_id=f"registry.example.org/payments/checkout-{number % 997}",
        sbom_version_id=f"registry.example.org/payments/checkout-{number % 997}@2026.1.{number}",
        sbom_digest=f"sha256:{number:064x}",
        trigger="sbom-version",
        correlation_id=_correlation_of(number),
        created_at=created_at or creation_time(number),
        metadata={
            "branch": "main",
            "commit": f"{number:040x}",
            "requestedBy": "ci@payments.example.org",
            "scanner": "syft 1.38.0",
        },
    )


def job_in_status(status: GraphJobStatus, tenant_id: str, number: int) -> GraphBuildJob:
    """Build a build job in a status, with the transitions of a worker."""
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


def _overlay_of(build: GraphBuildJob) -> GraphOverlayJob:
    """Build an overlay job in the state of a build job."""
    return GraphOverlayJob(
        tenant_id=build.tenant_id,
        status=build.status,
        attempts=build.attempts,
        correlation_id=build.correlation_id,
        created_at=build.created_at,
        started_at=build.started_at,
        completed_at=build.completed_at,
        error=build.error,
        metadata=build.metadata,
        graph_snapshot_id=f"snapshot-of-{build.sbom_version_id}",
        overlay_kind="advisory",
        overlay_key="osv@2026.1",
        trigger="advisory",
    )


def mixed_jobs(tenant_id: str, count: int) -> list[GraphBuildJob]:
    """Build a tenant's build jobs of mixed statuses; only the ids differ between runs."""
    return [job_in_status(_STATUSES[number % len(_STATUSES)], tenant_id, number) for number in range(count)]


async def store(url: str, jobs: Iterable[GraphBuildJob]) -> None:
    """Copy jobs into the table, and analyze it."""
    await _copy_jobs(url, map(_record, jobs))


async def store_many(url: str, tenant_id: str, count: int) -> None:
    """Copy a tenant's build jobs into the table, and analyze it.

    One real job of each status is the pattern, since a value per row would take too long: only id, correlation id and
    creation time differ, in the columns and in the payload.
    """
    await _copy_jobs(url, _patterned(tenant_id, count, mixed=False))


async def store_mixed(url: str, tenant_id: str, count: int) -> None:
    """Like `store_many`, but every 13th job is an overlay job, and every 11th has a shared correlation id."""
    await _copy_jobs(url, _patterned(tenant_id, count, mixed=True))


async def store_queued(url: str, tenants: Sequence[str], count: int) -> None:
    """Copy queued build jobs into the table, of these tenants in turns, and analyze it."""
    await _copy_jobs(url, _queued(tenants, count))


class _Pattern(NamedTuple):
    """A real job, and the parts of its payload around its id, correlation id and creation time."""

    job: AnyJob
    texts: tuple[str, str, str, str]

    @classmethod
    def of(cls, job: AnyJob) -> Self:
        first, second, third, last = texts_around(
            job.to_json(), str(job.id), str(job.correlation_id), _as_text(job.created_at)
        )
        return cls(job, (first, second, third, last))

    def record(self, job_id: UUID, correlation_id: str, created_at: datetime) -> Record:
        first, second, third, last = self.texts
        document = f"{first}{job_id}{second}{correlation_id}{third}{_as_text(created_at)}{last}"
        job = self.job
        times = (created_at, created_at)
        return job_id, job.tenant_id, job.type.code, job.status.code, document, *times, correlation_id


def texts_around(document: str, *marks: str) -> list[str]:
    """Split a document into the parts before, between and after the marks, which differ from row to row.

    Raises:
        ValueError: a mark is not in the document, after the previous marks.
    """
    texts, rest = [], document
    for mark in marks:
        before, separator, rest = rest.partition(mark)
        if not separator:
            raise ValueError(f"{mark} must be in the document, after the previous marks")
        texts.append(before)
    return [*texts, rest]


def _patterned(tenant_id: str, count: int, *, mixed: bool) -> Iterator[Record]:
    builds = {status: job_in_status(status, tenant_id, number) for number, status in enumerate(GraphJobStatus)}
    of_builds = {status: _Pattern.of(job) for status, job in builds.items()}
    of_overlays = {status: _Pattern.of(_overlay_of(job)) for status, job in builds.items()}
    for number in range(count):
        patterns = of_overlays if mixed and number % _OVERLAY_EACH == 0 else of_builds
        shared = mixed and number % _SHARED_EACH == 0
        correlation_id = SHARED_CORRELATION if shared else _correlation_of(number)
        pattern = patterns[_STATUSES[number % len(_STATUSES)]]
        yield pattern.record(uuid7(), correlation_id, creation_time(number))


def _queued(tenants: Sequence[str], count: int) -> Iterator[Record]:
    patterns = [_Pattern.of(queued_job(tenant, 0)) for tenant in tenants]
    for number in range(count):
        pattern = patterns[number % len(patterns)]
        yield pattern.record(uuid7(), _correlation_of(number), creation_time(number))


def _as_text(time: datetime) -> str:
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _record(job: GraphBuildJob) -> Record:
    code = job.status.code
    times = (job.created_at, job.created_at)
    return job.id, job.tenant_id, job.type.code, code, job.to_json(), *times, job.correlation_id


async def _copy_jobs(url: str, records: Iterator[Record]) -> None:
    await copy_records(url, _TABLE, _COLUMNS, records)


async def copy_records(
    url: str, table: str, columns: Sequence[str], records: Iterable[tuple[object, ...]], *, connections: int = 1
) -> None:
    """Copy records into a table of graphjobs, and bring all its tables to rest.

    Args:
        url: the URL of the database.
        table: the name of the table.
        columns: the columns of a record, in order.
        records: the records.
        connections: the number of connections that copy; more are faster for large rows.
    """
    async with connected(url) as connection:
        # Autovacuum would disturb a slice; `settle` does its work between the operations.
        for name in _ALL:
            await connection.execute(f"ALTER TABLE {name} SET (autovacuum_enabled = false)")
        remaining = iter(records)

        async def copy(by: Connection) -> None:
            await by.copy_records_to_table(table, records=remaining, columns=columns, schema_name=SCHEMA)

        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            group.create_task(copy(connection))
            for _ in range(connections - 1):
                group.create_task(copy(await stack.enter_async_context(connected(url))))
        await _settle(connection)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """Open one connection of the bare driver."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def settle(url: str) -> None:
    """Bring the tables to rest: vacuum, analyze, checkpoint."""
    async with connected(url) as connection:
        await _settle(connection)


async def truncate(url: str) -> None:
    """Truncate all tables."""
    async with connected(url) as connection:
        await connection.execute(f"TRUNCATE {', '.join(_ALL)}")


async def _settle(connection: Connection) -> None:
    await connection.execute(f"VACUUM (ANALYZE) {', '.join(_ALL)}")
    try:
        await connection.execute("CHECKPOINT")
    except asyncpg.InsufficientPrivilegeError:
        return  # the role of a configured server may lack the privilege
