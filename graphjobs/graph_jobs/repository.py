"""The repository of graph jobs, as the plan contracts it: a statement in, a value out; no transaction is begun here."""

from uuid import UUID

from graphjobs.core.fields import check_limit, check_name, parse_id
from graphjobs.core.pagination import PAGE_MAX, PartialList, check_event_id, read_rows
from graphjobs.database.executor import Executor
from graphjobs.errors import InvalidJob, JobAlreadyExists, JobNotFound
from graphjobs.graph_jobs.models import GraphBuildJob, GraphJobEvent, GraphOverlayJob
from graphjobs.graph_jobs.row_mapping import (
    Job,
    check_job,
    event_from_row,
    job_from_row,
    job_params,
    parse_status,
    swap_params,
)
from graphjobs.graph_jobs.sql import lists, single
from graphjobs.graph_jobs.status import GraphJobStatus


class GraphJobRepository:
    """Inserts, swaps, reads and logs graph jobs; each call is one statement and one round trip.

    A job is found only by its own tenant and as its own kind. Every method raises `InvalidJob` for an argument that
    cannot be, before any SQL, and `DatabaseUnavailable`, `OutcomeUnknown` or `SchemaOutOfDate` as the executor does.
    `job_id` is a UUID or its text; text that is no UUID is not found. Source: the plan's IGraphJobRepository.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def insert(self, job: Job) -> Job:
        """Stores a new job of either kind and any status.

        `created_at` is the value's, `updated_at` the database's.

        Returns:
            The job with its version, `updated_at`.

        Raises:
            JobAlreadyExists: the id is taken. Inside a session the transaction stays usable.
        """
        rows = await self._executor.fetch_all(single.INSERT_JOB, job_params(check_job(job)))
        if not rows:
            raise JobAlreadyExists(job.id)
        return job.stored(updated_at=rows[0][0])

    async def try_replace(self, job: GraphBuildJob, expected: GraphJobStatus) -> bool:
        """Swaps a build job in, if it still is in the status `expected` and at the attempts `job` follows from.

        A swap that keeps the status also compares `job.updated_at`: of two edits of one version one is lost.

        Returns:
            True where this swap was applied; False where it was lost, or no such job is the tenant's. Nothing changed.

        Raises:
            IllegalTransition: no job may go from `expected` to `job.status`; before any SQL.
        """
        return await self._try_replace(GraphBuildJob, job, expected)

    async def try_replace_overlay(self, job: GraphOverlayJob, expected: GraphJobStatus) -> bool:
        """As `try_replace`, for an overlay job."""
        return await self._try_replace(GraphOverlayJob, job, expected)

    async def get_build_job(self, tenant_id: str, job_id: UUID | str) -> GraphBuildJob | None:
        """Reads a build job; None where the tenant has none of this id.

        Raises:
            CorruptRow: it is there and cannot be read.
        """
        return await self._get(GraphBuildJob, tenant_id, job_id)

    async def get_overlay_job(self, tenant_id: str, job_id: UUID | str) -> GraphOverlayJob | None:
        """As `get_build_job`, for an overlay job."""
        return await self._get(GraphOverlayJob, tenant_id, job_id)

    async def list_build_jobs(
        self, tenant_id: str, status: GraphJobStatus | None = None, *, limit: int
    ) -> PartialList[GraphBuildJob]:
        """Lists a tenant's newest build jobs, `created_at` then `id` descending; of one status, or of all.

        Args:
            tenant_id: whose jobs.
            status: the one status to list, or None for all.
            limit: the most jobs to read, 1 to 1,000.

        Returns:
            The jobs; rows that cannot be read are left out and named in `unreadable`.
        """
        return await self._list(GraphBuildJob, tenant_id, status, limit)

    async def list_overlay_jobs(
        self, tenant_id: str, status: GraphJobStatus | None = None, *, limit: int
    ) -> PartialList[GraphOverlayJob]:
        """As `list_build_jobs`, for overlay jobs."""
        return await self._list(GraphOverlayJob, tenant_id, status, limit)

    async def append_event(self, event: GraphJobEvent) -> GraphJobEvent:
        """Appends to a job's log.

        Returns:
            The event with its id.

        Raises:
            JobNotFound: tenant and job do not exist together.
        """
        if not isinstance(event, GraphJobEvent):
            raise InvalidJob("event: it should be a GraphJobEvent", field="event")
        rows = await self._executor.fetch_all(
            single.APPEND_EVENT,
            {
                "p_job_id": event.job_id,
                "p_tenant_id": event.tenant_id,
                "p_status": event.status.code,
                "p_payload": event.payload_json(),
                "p_created_at": event.created_at,
            },
        )
        if not rows:
            raise JobNotFound(event.tenant_id, event.job_id)
        return event.replace(id=rows[0][0])

    async def list_events(
        self, tenant_id: str, job_id: UUID | str, *, after: int = 0, limit: int = PAGE_MAX
    ) -> PartialList[GraphJobEvent]:
        """Lists a job's log in its order, oldest first; empty where the tenant has no such job.

        Args:
            tenant_id: whose job.
            job_id: which job.
            after: the id of the event to go on from.
            limit: the most events to read, 1 to 1,000.
        """
        params = {
            "p_tenant_id": check_name(tenant_id, "tenant_id"),
            "p_limit": check_limit(limit, limit_max=PAGE_MAX),
        }
        begin = check_event_id(after)
        job = parse_id(job_id, "job_id")
        if job is None:
            return PartialList()
        rows = await self._executor.fetch_all(
            single.LIST_EVENTS, {**params, "p_job_id": job, "p_after_event_id": begin}
        )
        return read_rows(event_from_row, rows)

    async def _try_replace(self, kind: type[Job], job: Job, expected: GraphJobStatus) -> bool:
        if not isinstance(job, kind):
            raise InvalidJob(f"job: it should be a {kind.__name__}, not {type(job).__name__}", field="job")
        swap = swap_params(job, expected, None)
        statement = single.REPLACE_JOB_AT_VERSION if "p_expected_version" in swap else single.REPLACE_JOB
        return bool(await self._executor.fetch_all(statement, swap))

    async def _get(self, kind: type[Job], tenant_id: str, job_id: UUID | str) -> Job | None:
        params = {"p_tenant_id": check_name(tenant_id, "tenant_id"), "p_type": kind.type.code}
        job = parse_id(job_id, "job_id")
        if job is None:
            return None
        rows = await self._executor.fetch_all(single.GET_JOB, {**params, "p_job_id": job})
        return job_from_row(kind, rows[0]) if rows else None

    async def _list(
        self, kind: type[Job], tenant_id: str, status: GraphJobStatus | None, limit: int
    ) -> PartialList[Job]:
        params = {
            "p_tenant_id": check_name(tenant_id, "tenant_id"),
            "p_type": kind.type.code,
            "p_limit": check_limit(limit, limit_max=PAGE_MAX),
        }
        if status is None:
            rows = await self._executor.fetch_all(lists.LIST_JOBS, params)
        else:
            params["p_status"] = parse_status(status, "status").code
            rows = await self._executor.fetch_all(lists.LIST_JOBS_BY_STATUS, params)
        return read_rows(lambda row: job_from_row(kind, row), rows)
